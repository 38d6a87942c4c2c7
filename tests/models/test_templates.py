"""Laws of chat templates: a folder may bring any, and nothing of them is run or even parsed."""

import json
import subprocess
import sys
from pathlib import Path

from family_files import published
from gguf_changes import field
from gguf_writing import small_llama, string

HOSTILE = (
    "{{ cycler.__init__.__globals__.os.popen('touch owned').read() }}{% for x in range(9**9) %}"
)
PROGRAM = """
import sys
from pathlib import Path
from aobatch.models.convert import quality
from aobatch.models.store.catalogue import import_model
from aobatch.runners.scoring import score_texts
text = quality.quality_text()[:2000]
quality.quality_text = lambda: text
for path in map(Path, sys.argv[1:]):
    name = path.stem
    import_model(path, name, precision="fp32", progress=lambda *_: None, scorer=score_texts)
print([name for name in sys.modules if "jinja" in name.lower()])
"""


def hostile_folder(path: Path) -> Path:
    """Lay out a model with templates in all places that they may have."""
    published("llama", path)
    config = path / "tokenizer_config.json"
    named = [{"name": name, "template": HOSTILE} for name in ("default", "tool_use")]
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": named}))
    for name in ("chat_template.jinja", "chat_template.json"):
        (path / name).write_text(HOSTILE)
    return path


def hostile_file(path: Path) -> Path:
    """Write a GGUF file with a template."""
    file = small_llama()
    field("tokenizer.chat_template", string(HOSTILE))(file)
    return file.write(path)


def test_a_hostile_template_is_never_rendered(tmp_path: Path) -> None:
    """A folder and a file are imported without a library of templates; nothing was touched."""
    sources = [hostile_folder(tmp_path / "folder"), hostile_file(tmp_path / "file.gguf")]

    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, sources)],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "AOBATCH_MODELS": str(tmp_path / "models")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
    assert not (tmp_path / "owned").exists()
    for name in ("folder", "file"):
        model = tmp_path / "models" / name
        assert (model / "model.toml").is_file()
        texts = [path.read_bytes() for path in model.iterdir() if path.is_file()]
        assert not any(b"cycler" in text for text in texts)
