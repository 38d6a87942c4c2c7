"""Folders of safetensors files as checkpoints: config.json, weights, tokenizer.json."""

from pathlib import Path

from aobatch.models import families
from aobatch.models.importers.json_files import read_fields
from aobatch.models.importers.licence_file import read_licence
from aobatch.models.importers.safetensors_weights import find_weights, load_tensor
from aobatch.models.importers.tokenizer_file import read_tokenizer
from aobatch.models.names import safetensors_name
from aobatch.models.shapes import check_presence, check_shapes, decoder_shapes
from aobatch.models.sizes import check_spec, memory_budget
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight
from aobatch.models.traits import check_config

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Old files keep the frequencies that follow from config.json.
_UNNEEDED = ("rotary_emb.inv_freq",)


def read_safetensors(folder: Path) -> Checkpoint:
    """Open a folder as its author published it; weights are read one at a time.

    Nothing is taken on trust: raises ModelError if the files contradict each other, or ask for
    anything that is not supported.
    """
    config = read_fields(folder / "config.json")
    # The part of a model that reads text alone adds this to the family's name.
    family = families.find(config.text("model_type").removesuffix("_text"), config.source)
    stored = find_weights(folder)
    check_presence(_EMBEDDING, stored, config)
    spec = family.spec_from_config(config, stored[_EMBEDDING].stored.shape[0])
    check_config(config)
    files = sorted({tensor.path for tensor in stored.values()})
    check_spec(spec, config, memory_budget(sum(path.stat().st_size for path in files)))
    names = _stored_names(spec)
    expected = {names[name]: shape for name, shape in decoder_shapes(spec).items()}
    unneeded = (*_UNNEEDED, *((_HEAD,) if spec.is_tied else ()))
    shapes = {name: tensor.stored.shape for name, tensor in stored.items()}
    check_shapes(expected, shapes, config, unneeded)
    tokenizer, tokens = read_tokenizer(folder, config, spec.vocab_size)

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight = load_tensor(stored[names[name]], start, stop)
        return weight + family.GAIN_OFFSET if name.endswith("norm") else weight

    return Checkpoint(
        spec=spec,
        load=load,
        tokenizer_json=tokenizer,
        eos_token_ids=tokens.end,
        document_start_token_id=tokens.document_start,
        adds_document_start=tokens.adds_document_start,
        infill_token_ids=tokens.infill,
        name=folder.resolve().name,
        licence=read_licence(folder),
        source=folder.resolve().name,
        files=tuple(files),
    )


def _stored_names(spec: DecoderSpec) -> dict[str, str]:
    names = {name: safetensors_name(name, spec) for name in decoder_shapes(spec)}
    return names | ({"head": names["embedding"]} if spec.is_tied else {})
