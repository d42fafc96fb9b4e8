"""Records: what is stored can be read, recomputed, and not be tampered with."""

from __future__ import annotations

import datetime
import json
import mmap
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_array_equal
from pydantic import ValidationError

from chapterlib import settings
from chapterlib.__main__ import main
from chapterlib.metrics import evaluation
from chapterlib.reporting import machine, records, tables

Y_TRUE = [0, 1, 2, 3, 0, 1, 2, 3]
Y_PRED = [0, 1, 2, 3, 0, 1, 3, -1]
DATA = {
    "name": "AG News",
    "origin": "folder",
    "train_fingerprint": "0123456789abcdef",
    "test_fingerprint": "fedcba9876543210",
    "n_train": 32,
    "n_test": 8,
    "labels_used": 32,
    "per_class": 8,
    "label_names": ["World", "Sports", "Business", "Sci/Tech"],
}


def make(y_pred=Y_PRED, *, data=None, level=0.95, **fields):
    values = {
        "method": "probe",
        "title": "Probe",
        "model": "embedded",
        "model_sha256": "ab" * 32,
        "data": DATA | (data or {}),
        "seed": 0,
        "params": {"layers": (4, 8), "C": np.float64(0.5)},
        "fit_seconds": 1.5,
        "predict_seconds": 0.25,
        "peak_memory_bytes": 10**9,
        "trainable_parameters": 2308,
        "size_bytes": 9232,
        "created": datetime.date(2026, 11, 23),
    }
    return records.RunRecord.from_predictions(
        Y_TRUE, y_pred, level=level, **(values | fields)
    )


def edit(path: Path, seal: bool = False, **changes):
    """Change a file; `seal` gives it a right digest, as a forger would."""
    payload = json.loads(path.read_text(encoding="utf-8")) | changes
    if seal:
        payload["digest"] = records._digest(payload)
    path.write_text(json.dumps(payload), encoding="utf-8")


# ---- predictions as text ----


@given(st.lists(st.integers(-1, 35), min_size=1))
def test_predictions_survive_as_text(ids):
    text = records.encode_predictions(ids)
    assert len(text) == len(ids)
    assert_array_equal(records.decode_predictions(text), ids)


def test_a_class_beyond_the_digits_is_refused():
    with pytest.raises(ValueError, match="Row 1 of y_pred holds 36"):
        records.encode_predictions([0, 36])


def test_a_stray_character_is_named():
    with pytest.raises(ValueError, match="Character 2 of the predictions is 'A'"):
        records.decode_predictions("01A")


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
    assert record.recompute(Y_TRUE).as_dict() == found.as_dict()


def test_a_record_without_any_answer():
    record = make([-1] * 8)
    assert record.metrics.accuracy_answered is None
    assert record.recompute(Y_TRUE).answered == 0


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


def test_data_used_is_read_from_the_datasets():
    datasets = pytest.importorskip("datasets")
    from chapterlib.tasks import sampling, task

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(task.LABEL_NAMES)),
        }
    )
    rows = {"text": ["Storms hit a coast", "Rovers win"], "label": [0, 1]}
    test = datasets.Dataset.from_dict(rows, features=features)
    info = sampling.describe(datasets.DatasetDict(train=test, test=test))
    used = records.DataUsed.of(info, train=test, test=test, per_class=1)
    assert (used.n_train, used.n_test, used.labels_used) == (2, 2, 2)
    assert used.train_fingerprint == used.test_fingerprint == sampling.fingerprint(test)
    none = records.DataUsed.of(info, train=None, test=test)
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

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        records.write(make([0] * 8), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_record_of_another_model_is_not_replaced(tmp_path):
    records.write(make(), tmp_path)
    records.write(make([0] * 8), tmp_path)
    with pytest.raises(records.RecordError, match=r"embedded.*gpt.*another method"):
        records.write(make(model="gpt"), tmp_path)


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


# ---- the table ----


def test_seeds_are_summed_up_honestly():
    runs = [make([0] * 8, seed=0), make(Y_PRED, seed=1), make(Y_TRUE, seed=2)]
    row = tables.table(runs).iloc[0]
    assert row["seeds"] == 3
    assert row["accuracy"] == pytest.approx((0.25 + 0.75 + 1) / 3)
    assert (row["accuracy_min"], row["accuracy_max"]) == (0.25, 1.0)
    bounds = np.array([evaluation.wilson(correct, 8) for correct in (2, 6, 8)])
    assert (row["low"], row["high"]) == pytest.approx(tuple(bounds.mean(axis=0)))


def test_a_time_is_that_of_the_run_least_disturbed():
    spent = [(5.0, 2.0), (3.0, 8.0), (4.0, 4.0)]
    runs = [
        make(seed=seed, fit_seconds=fit, predict_seconds=predict)
        for seed, (fit, predict) in enumerate(spent)
    ]
    row = tables.table(runs).iloc[0]
    assert (row["fit_seconds"], row["predict_seconds"]) == (3.0, 2.0)


def test_budgets_models_and_test_rows_stay_apart():
    runs = [
        make(),
        make(data={"labels_used": 8, "n_train": 8}),
        make(model="other"),
        make(data={"test_fingerprint": "0" * 16}),
        make([0] * 8, method="majority", title="Majority", model=None, size_bytes=None),
    ]
    table = tables.table(runs)
    assert len(table) == 5
    assert table["accuracy"].is_monotonic_decreasing
    assert table["method"].iloc[-1] == "majority"
    assert table["size_bytes"].isna().sum() == 1


def test_the_sample_never_shares_a_table_with_ag_news(tmp_path, capsys):
    sample = {"name": "chapterlib sample", "origin": "sample"}
    runs = [make(), make(data=sample)]
    for run in runs:
        records.write(run, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(records.RecordError, match=r"data='AG News'"):
        tables.table(runs)
    assert len(tables.table(runs, data="AG News")) == 1
    assert records.read(tmp_path, data="chapterlib sample") == [runs[1]]
    main(["records", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.index("AG News") < printed.index("chapterlib sample")


def test_a_table_refuses_mixed_levels_and_repeated_runs():
    with pytest.raises(records.RecordError, match="confidence levels"):
        tables.table([make(), make(level=0.9, seed=1)])
    with pytest.raises(records.RecordError, match="more than once"):
        tables.table([make(), make()])


def test_no_records_make_an_empty_table(tmp_path, capsys):
    table = tables.table([])
    assert len(table) == 0
    assert "accuracy" in table
    assert len(tables.shown(table)) == 0
    main(["records", str(tmp_path)])
    assert "make results" in capsys.readouterr().out


def test_the_shown_table_reads_well():
    runs = [make(seed=s, size_bytes=134_515_008) for s in (0, 1)]
    runs.append(make([0] * 8, method="majority", title="Majority", size_bytes=None))
    shown = tables.shown(tables.table(runs))
    assert shown["Accuracy"].tolist() == ["0.750", "0.250"]
    assert shown["Size"].tolist() == ["135\N{NO-BREAK SPACE}MB", "–"]
    assert shown["Trainable"].tolist() == ["2.31\N{NO-BREAK SPACE}k"] * 2
    assert shown["Range over seeds"].tolist() == ["0.750–0.750", "–"]


# ---- the machine ----


def test_measure_sees_time_and_memory():
    with machine.measure(interval=0.005) as idle:
        pass
    size = 320_000_000
    # New pages: an array may get memory that the process has left over.
    with machine.measure(interval=0.005) as cost, mmap.mmap(-1, size) as block:
        block.write(b"1" * size)
        threading.Event().wait(0.1)
    assert cost.seconds >= 0.1
    assert cost.peak_bytes > idle.peak_bytes + size / 2
    assert "chapterlib-memory" not in {t.name for t in threading.enumerate()}


def test_measure_counts_children():
    command = "x = b'1' * 200_000_000; import time; time.sleep(1)"
    with machine.measure() as cost:
        alone = machine._resident(psutil.Process())
        subprocess.run([sys.executable, "-c", command], check=True)
    assert cost.peak_bytes > alone + 150_000_000


def test_measure_is_complete_after_an_error():
    seen = []

    def run():
        with machine.measure() as cost:
            seen.append(cost)
            raise KeyError

    with pytest.raises(KeyError):
        run()
    (cost,) = seen
    assert cost.seconds > 0
    assert cost.peak_bytes > 0


def test_measure_asks_torch_for_the_gpus(monkeypatch):
    reset = []

    class Cuda:
        def device_count(self):
            return 2

        def reset_peak_memory_stats(self, gpu):
            reset.append(gpu)

        def synchronize(self):
            pass

        def max_memory_allocated(self, gpu):
            return 100 + gpu

    monkeypatch.setattr(machine, "_cuda", Cuda)
    with machine.measure() as cost:
        pass
    assert cost.peak_gpu_bytes == 201
    assert reset == [0, 1]


def test_records_do_not_import_torch():
    code = (
        "import sys; from chapterlib import records\n"
        "with records.measure(): records.hardware()\n"
        "print('torch' in sys.modules, 'chapterlib.records' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_the_machine_is_described():
    found = machine.hardware()
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["dtype"] in (None, "float32", "bfloat16", "float16")
    assert settings.versions()["python"] == platform.python_version()
    assert "numpy" in settings.versions()


def test_the_type_that_the_machine_computes_in_is_told(monkeypatch):
    from chapterlib.models import devices

    monkeypatch.setattr(devices, "bf16_speedup", lambda: 2.0)
    monkeypatch.setattr(devices, "pick_device", lambda: devices.torch.device("cpu"))
    assert machine.hardware()["dtype"] == "bfloat16"
    monkeypatch.setattr(devices, "bf16_speedup", lambda: 1.0)
    assert machine.hardware()["dtype"] == "float32"


def test_the_processor_is_named_on_other_systems_too(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    assert machine._cpu_model() == (platform.processor() or platform.machine())
    monkeypatch.setattr(sys, "platform", "darwin")
    done = subprocess.CompletedProcess([], 0, stdout="Apple M9\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert machine._cpu_model() == "Apple M9"

    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr(subprocess, "run", fail)
    assert machine._cpu_model()


def test_the_code_digest_follows_the_code_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PACKAGE", tmp_path)
    (tmp_path / "a.py").write_bytes(b"x = 1\n")
    before = machine.code_digest()
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    (tmp_path / "a.py").write_bytes(b"x = 1\r\n")
    assert machine.code_digest() == before
    (tmp_path / "a.py").write_bytes(b"x = 2\n")
    assert machine.code_digest() != before
