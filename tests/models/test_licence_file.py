"""Laws of the licence that a folder states."""

from pathlib import Path

import pytest
from family_files import published

from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.source.tokenizer_json import read_licence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\r\nlanguage: en\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("\ufeff---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: other\nlicense_name: tongyi-qianwen\n---\n", "tongyi-qianwen"),
        ("---\nlicense:\n- mit\n- apache-2.0\ntags: [x]\n---\n", "mit, apache-2.0"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\ntags:\n  license: no\n---\nlicense: mit\n", "unknown"),
        ("license: mit\n", "unknown"),
        ("---\nlicense: mit\n", "unknown"),
        ("---\nlicense: a\x1b[2Jb\n---\n", "a\\x1b[2Jb"),
        (f"---\nlicense: {'x' * 200}\n---\n", "unknown"),
        ("---\n" + 40_000 * "a: b\n" + "license: mit\n---\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_readme_names_the_licence(text: str, expected: str, tmp_path: Path) -> None:
    """The heading between dashes says it; what stands elsewhere, or has no end, says nothing."""
    (tmp_path / "README.md").write_bytes(text.encode())

    assert read_licence(tmp_path) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["LICENSE"], "see LICENSE"),
        (["LICENCE.txt"], "see LICENCE.txt"),
        (["COPYING"], "see COPYING"),
        (["NOTICE", "LICENSE-MIT", "LICENSE"], "see LICENSE"),
        (["USE_POLICY.md", "NOTICE"], "see NOTICE"),
        (["licensed.py", "relicense"], "unknown"),
        ([], "unknown"),
    ],
)
def test_a_file_of_terms_is_named(names: list[str], expected: str, tmp_path: Path) -> None:
    """Without a heading the name of the file says where to read."""
    for name in names:
        (tmp_path / name).write_text("terms")

    assert read_licence(tmp_path) == expected


def test_the_heading_goes_before_a_file(tmp_path: Path) -> None:
    """A stated name says more than a file's, and is that of the checkpoint."""
    folder = published("llama", tmp_path / "tiny")
    (folder / "LICENSE").write_text("terms")
    assert read_safetensors(folder).licence == "see LICENSE"

    (folder / "README.md").write_text("---\nlicense: mit\n---\n")

    assert read_safetensors(folder).licence == "mit"


@pytest.mark.parametrize("content", [b"\xff\xfe---", b"---\nlicense: \xff\n---\n"])
def test_a_readme_that_is_no_text_is_no_obstacle(content: bytes, tmp_path: Path) -> None:
    """Whatever the bytes, the folder is read."""
    (tmp_path / "README.md").write_bytes(content)

    assert read_licence(tmp_path) in ("unknown", "\ufffd")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A README that is no file says nothing."""
    (tmp_path / "README.md").mkdir()

    assert read_licence(tmp_path) == "unknown"
