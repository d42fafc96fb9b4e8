"""Records: what is stored can be read, recomputed, and not be tampered with."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import datasets
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_array_equal
from pydantic import ValidationError
from record_double import DATA, Y_PRED, Y_TRUE, make

from chapterlib import settings
from chapterlib.metrics import evaluation
from chapterlib.reporting import records, tables
from chapterlib.tasks import sampling


def edit(path: Path, seal: bool = False, **changes):
    """Change a file; `seal` gives it a right digest, as a forger would."""
    payload = json.loads(path.read_text(encoding="utf-8")) | changes
    if seal:
        payload["digest"] = records._digest(payload)
    path.write_text(json.dumps(payload), encoding="utf-8")


# ---- predictions as text ----


@given(st.lists(st.integers(-1, 90), min_size=1))
def test_predictions_survive_as_text(ids):
    text = records.encode_predictions(ids)
    assert len(text) == len(ids)
    assert_array_equal(records.decode_predictions(text), ids)


def test_the_digits_of_the_first_classes_are_those_of_the_files_in_git():
    assert records.encode_predictions([*range(36), -1]) == (
        "0123456789abcdefghijklmnopqrstuvwxyz."
    )
    # JSON holds every digit as it is, and none of them twice.
    assert len(set(records.DIGITS)) == len(records.DIGITS) == 91
    assert json.dumps(records.DIGITS) == f'"{records.DIGITS}"'


def test_a_class_beyond_the_digits_is_refused():
    with pytest.raises(ValueError, match="Row 1 of y_pred holds 91"):
        records.encode_predictions([0, 91])


def test_a_stray_character_is_named():
    with pytest.raises(ValueError, match="Character 2 of the predictions is ' '"):
        records.decode_predictions("01 ")


# ---- the schema ----


def test_a_record_holds_what_metrics_say():
    record = make()
    found = evaluation.evaluate(Y_TRUE, Y_PRED, record.data.label_names)
    assert record.metrics.accuracy == found.accuracy == 0.75
    assert (record.metrics.low, record.metrics.high) == found.interval
    assert record.metrics.answered == 7
    assert record.metrics.accuracy_answered == 6 / 7
    assert record.predictions == "0123013."
    assert record.params == {"layers": [4, 8], "C": 0.5}
    assert str(record.recompute(Y_TRUE)) == str(found)


def test_a_record_without_any_answer():
    record = make([-1] * 8)
    assert record.metrics.accuracy_answered is None
    assert record.recompute(Y_TRUE).answered == 0


def test_labels_that_lie_with_the_records_check_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(tmp_path))
    record = make()
    with pytest.raises(records.RecordError, match=r"labels\.json: hand them over"):
        record.recompute()
    (tmp_path / "rows").mkdir()
    digits = {record.data.test_fingerprint: "".join(map(str, Y_TRUE))}
    (tmp_path / "rows" / "labels.json").write_text(json.dumps(digits))
    assert records.true_labels(record).tolist() == list(Y_TRUE)
    assert record.recompute().accuracy == record.metrics.accuracy


def test_other_labels_do_not_recompute():
    with pytest.raises(records.RecordError, match=r"accuracy .stored 0.75.*fedcba98"):
        make().recompute([1] * 8)
    with pytest.raises(ValueError, match="y_true has 4"):
        make().recompute([1] * 4)


def test_a_record_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        make().seed = 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"method": "My Probe"}, "method"),
        ({"model_sha256": "ab"}, "model_sha256"),
        ({"fit_seconds": -1}, "fit_seconds"),
        ({"fit_seconds": float("nan")}, "fit_seconds"),
        ({"params": {"C": float("nan")}}, "params"),
        ({"data": {"n_test": 9}}, "8 predictions for 9"),
        ({"data": {"test_fingerprint": "xyz"}}, "test_fingerprint"),
        ({"data": {"origin": "somewhere"}}, "origin"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_params_that_json_cannot_hold_are_refused():
    with pytest.raises(TypeError, match="can't be stored"):
        make(params={"model": object()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": 0.875}, "metrics.low"),
        ({"accuracy": 0.8}, "metrics.accuracy"),
        ({"high": 0.999}, "metrics.high"),
        ({"answered": 8}, "metrics.answered"),
        ({"accuracy_answered": 0.9}, "metrics.accuracy_answered"),
        ({"accuracy_answered": None}, "metrics.accuracy_answered"),
    ],
)
def test_metrics_that_contradict_the_predictions_are_refused(changes, message):
    payload = make().model_dump()
    payload["metrics"].update(changes)
    with pytest.raises(ValidationError, match=message):
        records.RunRecord.model_validate(payload)


def test_a_prediction_outside_the_classes_is_refused():
    payload = make().model_dump() | {"predictions": "01230137"}
    with pytest.raises(ValidationError, match="no class of label_names"):
        records.RunRecord.model_validate(payload)


def test_no_path_of_this_machine_enters_a_record(tmp_path):
    assert make(model=str(tmp_path / "my-llama")).model == "my-llama"
    assert make(model="meta-llama/Llama-3.2-1B").model == "meta-llama/Llama-3.2-1B"
    assert platform.node() not in json.dumps(make().hardware) or not platform.node()


def test_seventy_seven_classes_fit(tmp_path):
    names = [f"class {i}" for i in range(77)]
    data = {**DATA, "n_test": 77, "label_names": names}
    fields = make().model_dump(exclude={"data", "metrics", "predictions"})
    record = records.RunRecord.from_predictions(
        range(77), [*range(76), 0], data=data, **fields
    )
    records.write(record, tmp_path)
    (found,) = records.read(tmp_path)
    assert found.recompute(range(77)).accuracy == 76 / 77


def test_data_used_is_read_from_the_datasets(tiny_news):
    test = tiny_news["test"]
    info = sampling.describe(datasets.DatasetDict(train=test, test=test))
    used = records.DataUsed.of(info, test, test, per_class=4)
    assert (used.n_train, used.n_test, used.labels_used) == (16, 16, 16)
    assert used.label_names == tuple(test.features["label"].names)
    assert used.train_fingerprint == used.test_fingerprint == sampling.fingerprint(test)
    none = records.DataUsed.of(info, test.select([]), test)
    assert (none.n_train, none.labels_used, none.train_fingerprint) == (0, 0, None)


# ---- files ----


def test_what_is_written_is_read(tmp_path):
    record = make()
    path = records.write(record, tmp_path / "new")
    assert path.name == "ag-news-probe-32-s0.json"
    assert records.read(tmp_path / "new") == [record]
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert '\n  "predictions": "0123013.",\n' in text
    keys = list(json.loads(text))
    assert keys == sorted(keys)


def test_writing_again_changes_no_byte_and_leaves_no_draft(tmp_path):
    path = records.write(make(), tmp_path)
    before = path.read_bytes()
    records.write(records.read(tmp_path)[0], tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_record(tmp_path, monkeypatch):
    path = records.write(make(), tmp_path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(records.RecordError, match=r"disk full.*CHAPTERLIB_RESULTS"):
        records.write(make([0] * 8), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_broken_file_is_replaced(tmp_path):
    path = records.write(make(), tmp_path)
    path.write_text("{", encoding="utf-8")
    records.write(make(), tmp_path)
    assert len(records.read(tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 7}, "schema version 7, and this chapterlib reads 1"),
        ({"title": "Better probe"}, "changed after it was written"),
        ({"digest": None}, "changed after it was written"),
        ({"seal": True, "colour": "red"}, "no valid record .colour"),
        ({"seal": True, "predictions": "01"}, "2 predictions for 8 test rows"),
        ({"seal": True, "seed": 1}, "holds the run ag-news-probe-32-s1.json"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_named(tmp_path, changes, message):
    path = records.write(make(), tmp_path)
    edit(path, **changes)
    with pytest.raises(records.RecordError, match=message) as error:
        records.read(tmp_path)
    assert str(path) in str(error.value)


def test_every_bad_file_is_named_at_once(tmp_path):
    records.write(make(), tmp_path)
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    (tmp_path / "b.json").write_text("[]", encoding="utf-8")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe")
    with pytest.raises(records.RecordError) as error:
        records.read(tmp_path)
    message = str(error.value)
    assert "a.json is no JSON" in message
    assert "b.json is no record" in message
    assert "c.json is no JSON" in message
    assert "make results" in message


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(records.RecordError, match=r"is no folder.*CHAPTERLIB_RESULTS"):
        records.read(tmp_path / "nowhere")


def test_the_setting_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(tmp_path))
    path = records.write(make())
    assert path.parent == tmp_path
    assert records.read() == [make()]
    assert len(tables.table()) == 1


def test_without_a_setting_it_is_that_of_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv("CHAPTERLIB_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    root = settings.PACKAGE.parent
    assert settings.results_folder() == root / "results"


def test_an_installed_package_reads_its_own_records_and_takes_none(
    monkeypatch, tmp_path
):
    monkeypatch.delenv("CHAPTERLIB_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "site-packages" / "chapterlib"
    shipped = package / "data_files" / "results"
    records.write(make(), shipped)
    monkeypatch.setattr(settings, "PACKAGE", package)
    assert records.read() == [make()]
    with pytest.raises(records.RecordError, match="set CHAPTERLIB_RESULTS"):
        records.write(make())
