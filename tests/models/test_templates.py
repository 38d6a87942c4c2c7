"""Laws of chat templates: a folder may bring any, and nothing of them is run or even parsed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from family_files import published
from gguf_changes import field
from gguf_writing import small_llama, string

HOSTILE = (
    "{{ cycler.__init__.__globals__.os.popen('touch owned').read() }}{% for x in range(9**9) %}"
)
PROGRAM = """
import sys
from pathlib import Path
from aobatch.models.store.catalogue import import_model
from aobatch.runners.scoring import score_texts
import_model(
    Path(sys.argv[1]), "mine", precision="fp32", progress=lambda *_: None, scorer=score_texts
)
print([name for name in sys.modules if "jinja" in name.lower()])
"""


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_hostile_template_is_never_rendered(kind: str, tmp_path: Path) -> None:
    """The model is imported without a library of templates, and nothing was touched."""
    source = tmp_path / "tiny.gguf"
    if kind == "folder":
        source = published("llama", tmp_path / "tiny")
        path = source / "tokenizer_config.json"
        named = [
            {"name": "default", "template": HOSTILE},
            {"name": "tool_use", "template": HOSTILE},
        ]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
        for name in ("chat_template.jinja", "chat_template.json"):
            (source / name).write_text(HOSTILE)
    else:
        file = small_llama()
        field("tokenizer.chat_template", string(HOSTILE))(file)
        file.write(source)

    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source)],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "AOBATCH_MODELS": str(tmp_path / "models")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
    assert not (tmp_path / "owned").exists()
    assert (tmp_path / "models/mine/model.toml").is_file()
    texts = [path.read_bytes() for path in (tmp_path / "models/mine").iterdir() if path.is_file()]
    assert not any(b"cycler" in text for text in texts)
