"""Laws of the surface for programs: prompts and tables of any library, typed, closed, scripted."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import aobatch
from aobatch.api.body import PARAMETERS
from aobatch.api.request import Parameters
from aobatch.errors import InputError, JobError, RequestError, UsageError
from aobatch.models.store.folder import ModelFolder
from aobatch.testing import ScriptedBackend, scripted_engine, speaking_script

IDS, TEXTS, YEARS = [11, 22, 33], ["a", None, "c"], [1999, 2000, 2001]
FRAMES = {
    "pandas": lambda: pd.DataFrame({"id": IDS, "text": TEXTS, "year": YEARS}),
    "polars": lambda: pl.DataFrame({"id": IDS, "text": TEXTS, "year": YEARS}),
    "pyarrow": lambda: pa.table({"id": IDS, "text": TEXTS, "year": YEARS}),
    "duckdb": lambda: duckdb.sql(
        "SELECT * FROM (VALUES (11, 'a', 1999), (22, NULL, 2000), (33, 'c', 2001)) "
        "t(id, text, year)"
    ),
}


def answer(frame: Any, **options: Any) -> pa.Table:  # noqa: ANN401 - of any library
    """Answer a frame by a model that says `yes` to what it is asked of `a`."""
    backend = ScriptedBackend(speaking_script("Is a good?", " yes"))
    options = {"columns": {"custom_id": "id"}, "max_tokens": 8, "temperature": 0, **options}
    return aobatch.run_table(frame, template="Is {text} good?", backend=backend, **options)


@pytest.mark.parametrize("name", FRAMES)
def test_tables_of_any_library_are_answered(name: str) -> None:
    """A row for each, in order, with the columns that it had; a null fails its row alone."""
    found = answer(FRAMES[name]())

    assert found["custom_id"].to_pylist() == IDS
    assert found["year"].to_pylist() == YEARS
    assert found["input_text"].to_pylist() == TEXTS
    assert found["text"].to_pylist()[0] == " yes"
    assert found["error_code"].to_pylist() == [None, "invalid_value", None]
    assert "response" not in found.schema.names


def test_answers_join_by_their_own_ids() -> None:
    """In each library the answers stand beside their rows, by ids that are numbers."""
    found = answer(FRAMES["pyarrow"](), keep=())
    assert found.schema.names[0] == "custom_id"
    assert len(found.schema.names) == 8

    frame = FRAMES["pandas"]().merge(found.to_pandas(), left_on="id", right_on="custom_id")
    assert frame["text_y"].tolist()[0] == " yes"
    polars = FRAMES["polars"]().join(pl.from_arrow(found), left_on="id", right_on="custom_id")
    assert polars["text_right"].to_list()[0] == " yes"
    rows = FRAMES["duckdb"]()
    joined = duckdb.sql("SELECT found.text FROM rows JOIN found ON rows.id = found.custom_id")
    assert len(joined.fetchall()) == 3
    assert rows is not None


def test_a_table_may_have_the_fields_of_requests() -> None:
    """Without a template its columns are fields, and the others only go along."""
    table = pa.table({"prompt": ["Is a good?"], "max_tokens": [3], "note": ["n"]})
    backend = ScriptedBackend(speaking_script("Is a good?", " yes"))
    found = aobatch.run_table(table, backend=backend, temperature=0)

    assert found["text"].to_pylist() == [" ye"]
    assert found["note"].to_pylist() == ["n"]


def test_what_is_no_table_is_told() -> None:
    """One sentence, whatever was given; a name that is not there as in a file."""
    with pytest.raises(UsageError, match="a list is no table"):
        aobatch.run_table([1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no 'txt' for the template"):
        aobatch.run_table(FRAMES["pyarrow"](), template="{txt}", backend=ScriptedBackend())


def test_progress_is_shown_if_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar on standard error, which ends with all rows; without a terminal there is none."""
    answer(FRAMES["pyarrow"]())
    assert capsys.readouterr().err == ""
    answer(FRAMES["pyarrow"](), progress=True)
    assert "3/3" in capsys.readouterr().err


def test_prompts_of_a_program_are_completed(tiny_fp32: ModelFolder) -> None:
    """By name of a model: texts, ids, messages and nothing, each with the text of its result."""
    prompts: list[Any] = ["Hello", [5, 6], np.array([5, 6]), None]
    prompts += [[{"role": "user", "content": "Hi"}]]
    model = str(tiny_fp32.path)
    results = aobatch.complete(prompts, model=model, max_tokens=4, temperature=0)

    assert [len(result.choices) for result in results] == [1] * 5
    assert results[1].text == results[2].text
    assert results[4].request.is_chat
    with pytest.raises(RequestError, match="temperature"):
        aobatch.complete("Hello", model=model, temperature=3)


@pytest.mark.parametrize("prompts", [5, [5], [object()], [[{"role": "user"}]]])
def test_what_is_no_prompt_is_told(prompts: Any) -> None:  # noqa: ANN401 - anything
    """An error of requests says so, as for a line of a file."""
    with pytest.raises(RequestError):
        scripted_engine().complete(prompts)


def test_a_failed_result_has_no_text() -> None:
    """Whoever asks for the text gets the error."""
    (result,) = scripted_engine().complete(["x" * 5000])

    with pytest.raises(RequestError, match="context length"):
        _ = result.text


def test_an_engine_is_closed_behind_its_block(tiny_fp32: ModelFolder) -> None:
    """Its model is let go of, and nobody can ask it any more."""
    with aobatch.load_engine(str(tiny_fp32.path)) as engine:
        assert engine.complete("Hello", max_tokens=1)[0].choices
    with pytest.raises(JobError, match="closed"):
        engine.complete("Hello", max_tokens=1)


def test_parameters_are_typed_as_the_table_has_them() -> None:
    """Every parameter of a request but the prompt and the model, and no other."""
    assert {*get_type_hints(Parameters)} == {*PARAMETERS} - {"prompt", "model"}


@pytest.mark.long
def test_a_misspelt_parameter_is_found_by_mypy(tmp_path: Path) -> None:
    """Before a program is run."""
    script = tmp_path / "script.py"
    script.write_text(
        "import aobatch\n"
        "aobatch.complete('a', max_tokens=1)\n"
        "aobatch.complete('a', max_token=1)\n"
        "aobatch.load_engine().complete('a', temperature='warm')\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent", str(script)],
        env={"MYPYPATH": str(Path(aobatch.__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    ).stdout

    assert "script.py:3: error: Unexpected keyword argument" in found
    assert "script.py:4: error" in found
    assert "script.py:2" not in found


def test_paths_may_be_texts(tmp_path: Path) -> None:
    """Of a job's inputs, one or several, and of its output."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    config = aobatch.JobConfig(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))  # type: ignore[arg-type]

    assert aobatch.run_job(config, ScriptedBackend()).report.requests.completed == 1
    assert aobatch.JobConfig(["a", "b"], "c").inputs == (Path("a"), Path("b"))  # type: ignore[arg-type]


def test_the_package_says_its_version_and_its_names() -> None:
    """For people at a prompt, who complete names."""
    assert aobatch.__version__[0].isdigit()
    assert {*aobatch.__all__, "__version__"} <= {*dir(aobatch)}
