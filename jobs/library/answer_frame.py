"""Answer the rows of a table in a program, and count the answers by a column that it had.

    python jobs/library/answer_frame.py reviews.csv

Any table with __arrow_c_stream__ will do: a DataFrame of pandas or polars, a relation of duckdb.
"""

import sys
from collections import Counter

import pyarrow.csv

import aobatch


def main(path: str) -> None:
    """Print how many reviews of each place were answered."""
    answers = aobatch.run_table(
        pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)),
        template="Is this review good or bad? {text}",
        chat=True,
        columns={"custom_id": "id"},
        max_tokens=4,
        temperature=0,
    )
    failed = [message for message in answers["error_message"].to_pylist() if message]
    for place, number in Counter(answers["place"].to_pylist()).items():
        sys.stdout.write(f"{place}: {number}\n")
    sys.stdout.write(f"{answers.num_rows} answers, {len(failed)} failed\n")


if __name__ == "__main__":
    main(sys.argv[1])
