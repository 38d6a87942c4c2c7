"""Write jobs/summaries.parquet: texts to summarise, a row each, as a table has them.

    python3 jobs/library/make_table.py jobs/summaries.parquet

Needs pyarrow, which aobatch brings along; pandas' to_parquet writes the same.
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = {
    "bees": "A honey bee that has found flowers returns to the hive and dances. The angle of "
    "the dance tells the others the direction, its length the distance.",
    "bread": "Bread rises because yeast eats the sugar of the flour and gives off gas. The "
    "dough holds the gas in bubbles, and the heat of the oven makes them firm.",
    "canals": "The city dug its canals to drain the marsh. Later merchants used them to bring "
    "goods to the doors of their houses. Today they mostly carry visitors.",
    "glass": "Glass is made of sand that is melted with soda and lime. While it cools it grows "
    "stiff without forming crystals, so light passes through it.",
    "owls": "Owls hunt at night. Their feathers have soft edges that make no sound, and one "
    "ear is higher than the other, so that they hear where a mouse is.",
    "paper": "Paper was once made of rags. When rags became scarce, makers turned to wood, "
    "which is cheap, but leaves acids in the paper that make it yellow.",
    "tides": "The moon pulls the water of the sea towards it. As the earth turns, each coast "
    "meets the raised water twice a day, and the sea comes in and goes out.",
    "trams": "The town took out its tram lines to make room for cars. When the streets were "
    "full, it built them again, at many times what they had cost before.",
}
PROMPT = "<|im_start|>user\nSummarize in one short sentence: {}<|im_end|>\n<|im_start|>assistant\n"


def main(path: str) -> None:
    """Write the table, with a column that no request has a field for."""
    table = pa.table(
        {
            "id": list(range(1, len(TEXTS) + 1)),
            "topic": list(TEXTS),
            "text": [PROMPT.format(text) for text in TEXTS.values()],
        }
    )
    pq.write_table(table, path, compression="zstd")


if __name__ == "__main__":
    main(sys.argv[1])
