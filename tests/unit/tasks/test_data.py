from __future__ import annotations

import os
import shutil
import socket
import threading
import warnings
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets

from chapterlib.tasks import audit, loading, sampling
from chapterlib.tasks.loading import DataError
from chapterlib.tasks.task import LABEL_NAMES


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Give a test a cache in which nothing lies yet."""
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "own_cache"))
    return tmp_path / "own_cache"


def good(n: int = 4) -> dict[str, list]:
    return {"text": [f"item {i}" for i in range(n)], "label": [i % 4 for i in range(n)]}


def write(folder, train=None, test=None, readme=""):
    """Write parquet files in the Hub's layout; an empty dict leaves out a split."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("test", test)):
        frame = pd.DataFrame(good() if rows is None else rows)
        if rows != {}:
            frame.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    if readme:
        (folder / "README.md").write_text(readme)
    return folder


README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: test
    path: data/test-*.parquet
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': Sci/Tech
          '1': World
          '2': Sports
          '3': Business
---
"""


# ---- folders ----


def test_folder_keeps_order_and_has_the_four_names(tmp_path):
    ds = sampling.load_ag_news(write(tmp_path / "a"))
    assert list(ds) == ["train", "test"]
    assert ds["train"].features["label"].names == list(LABEL_NAMES)
    assert ds["train"][:] == good()
    assert sampling.describe(ds).origin == "folder"
    assert sampling.describe(ds).rows == {"train": 4, "test": 4}


def test_folder_named_by_the_setting_and_relative(tmp_path, monkeypatch):
    write(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAPTERLIB_AG_NEWS", "a")
    assert sampling.describe(sampling.load_ag_news()).origin == "folder"


def test_saved_dataset_dict(tmp_path, tiny_news):
    tiny_news.save_to_disk(tmp_path / "saved")
    ds = sampling.load_ag_news(str(tmp_path / "saved"))
    assert ds["test"][:] == tiny_news["test"][:]
    assert sampling.fingerprint(ds["train"]) == sampling.fingerprint(tiny_news["train"])


def test_label_names_in_any_case_and_other_columns_left_out(tmp_path):
    rows = {
        "id": [7, 8, 9, 10],
        "label": ["sci/tech", "WORLD", " Sports", "Business"],
        "text": list("abcd"),
    }
    ds = sampling.load_ag_news(write(tmp_path / "a", train=rows))
    assert ds["train"]["label"][:] == [3, 0, 1, 2]
    assert ds["train"].column_names == ["text", "label"]


def test_names_decide_where_a_folder_numbers_the_classes_otherwise(tmp_path):
    ds = sampling.load_ag_news(write(tmp_path / "a", readme=README))
    assert ds["train"]["label"][:] == [3, 0, 1, 2]


def test_changed_folder_never_serves_old_rows(tmp_path):
    folder = write(tmp_path / "a")
    before = sampling.load_ag_news(folder)
    file = folder / "data" / "train-00000-of-00001.parquet"
    stamp = file.stat()
    changed = good()
    changed["text"][2] = "item X"
    pd.DataFrame(changed).to_parquet(file)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = sampling.load_ag_news(folder)
    assert before["train"][2]["text"] == "item 2"
    assert after["train"][2]["text"] == "item X"
    assert sampling.describe(before).fingerprint != sampling.describe(after).fingerprint


def test_everything_cached_lies_under_our_cache_and_is_reused(tmp_path, own_cache):
    folder = write(tmp_path / "a")
    ds = sampling.load_ag_news(folder)
    files = {f["filename"] for s in ds.values() for f in s.cache_files}
    assert files
    assert all(f.startswith(str(own_cache)) for f in files)
    assert not list((own_cache / "ag_news").glob("scratch-*"))
    stamps = {f: Path(f).stat().st_mtime_ns for f in files}
    sampling.load_ag_news(folder)
    assert stamps == {f: Path(f).stat().st_mtime_ns for f in files}


def test_copy_cut_off_by_a_kill_is_made_anew(tmp_path, own_cache):
    folder = write(tmp_path / "a")
    sampling.load_ag_news(folder)
    (copy,) = [p for p in (own_cache / "ag_news").iterdir() if p.is_dir()]
    (copy / "dataset_dict.json").unlink()
    assert sampling.load_ag_news(folder)["train"].num_rows == 4


BAD = [
    ({"text": list("abcd")}, "train.*no column 'label'.*Name the columns"),
    ({"label": [0, 1]}, "train.*no column 'text'"),
    ({"text": list("abc"), "label": [0, 1, 9]}, "train.*1 of 3 rows.*row 2.*is 9"),
    ({"text": list("ab"), "label": [4, 1]}, "row 0.*count the classes from 1"),
    ({"text": list("abc"), "label": [0, None, None]}, "2 of 3 rows.*row 1"),
    ({"text": list("ab"), "label": [0.5, 1.0]}, "1 of 2 rows.*row 0.*0.5"),
    ({"text": list("ab"), "label": ["World", "Weather"]}, "row 1.*'Weather'"),
    ({"text": ["a", "  "], "label": [0, 1]}, "1 of 2 rows have an empty text.*row 1"),
    ({"text": ["a", None], "label": [0, 1]}, "no string as text.*row 1.*Remove"),
    ({"text": [], "label": []}, "train.*no rows"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
@pytest.mark.parametrize("readme", ["", README], ids=["plain", "with-readme"])
def test_bad_rows_are_named(tmp_path, rows, message, readme):
    folder = write(tmp_path / "bad", train=rows, readme=readme)
    with pytest.raises(DataError, match=message) as caught:
        sampling.load_ag_news(folder)
    assert str(folder) in str(caught.value)


def test_bad_rows_in_the_test_split_are_named(tmp_path):
    folder = write(tmp_path / "bad", test={"text": ["a"], "label": [-1]})
    with pytest.raises(DataError, match="split 'test': 1 of 1 rows"):
        sampling.load_ag_news(folder)


def test_unknown_class_names_are_refused(tmp_path, tiny_news):
    names = ClassLabel(names=["a", "World", "Sports", "Business"])
    ds = DatasetDict({s: d.cast_column("label", names) for s, d in tiny_news.items()})
    ds.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"unknown class names \['a'\]"):
        sampling.load_ag_news(tmp_path / "saved")


def test_missing_split_wrong_path_and_no_data(tmp_path):
    with pytest.raises(DataError, match=r"no split 'test'.*found"):
        sampling.load_ag_news(write(tmp_path / "one", test={}))
    Dataset.from_dict(good()).save_to_disk(tmp_path / "single")
    with pytest.raises(DataError, match="a single table"):
        sampling.load_ag_news(tmp_path / "single")
    with pytest.raises(DataError, match=r"does not exist.*absolute path"):
        sampling.load_ag_news(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is a file"):
        sampling.load_ag_news(__file__)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"can't be read.*should hold"):
        sampling.load_ag_news(tmp_path / "empty")


def test_short_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="fancyzhx/ag_news"):
        sampling.load_ag_news("ag_news")


def test_huge_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "MAX_FILES", 1)
    with pytest.raises(DataError, match="far more than AG News"):
        sampling.load_ag_news(write(tmp_path / "a"))


def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="Set CHAPTERLIB_CACHE"):
        sampling.load_ag_news(write(tmp_path / "a"))


# ---- the Hub ----


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """Answer as a reachable Hub whose dataset is a small folder; count downloads."""
    folder, calls = write(tmp_path / "hub"), []

    def download(repo_id, *, repo_type, local_dir, token):
        calls.append((repo_id, repo_type, token))
        shutil.copytree(folder, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr(loading, "unreachable", lambda: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_hub_rows_are_fetched_once_then_used_offline(fake_hub, own_cache, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "t")
    monkeypatch.setattr(loading, "HUB_ROWS", {"train": 4, "test": 4})
    assert sampling.describe(sampling.load_ag_news()).origin == "hub"
    monkeypatch.setattr(loading, "unreachable", lambda: "no network")
    ds = sampling.load_ag_news()
    assert sampling.describe(ds.shuffle(seed=1)["train"].select([0])).origin == "hub"
    assert fake_hub == [("fancyzhx/ag_news", "dataset", "t")]


def test_hub_rows_of_another_count_are_not_ag_news(fake_hub, own_cache):
    with pytest.raises(DataError, match=r"not {'train': 120000"):
        sampling.load_ag_news("fancyzhx/ag_news")
    with pytest.warns(UserWarning, match="NOT AG NEWS.*has {'train': 4"):
        assert sampling.describe(sampling.load_ag_news()).is_sample


def test_another_hub_id_may_have_other_counts(fake_hub, own_cache):
    assert sampling.load_ag_news("someone/news")["train"].num_rows == 4


def test_named_hub_id_that_fails_is_an_error_never_the_sample(
    fake_hub, own_cache, monkeypatch
):
    def refuse(*args, **kwargs):
        raise OSError("401 Client Error")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(DataError, match=r"401 Client Error.*HF_TOKEN"):
        sampling.load_ag_news("someone/private")
    monkeypatch.undo()
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(own_cache))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        sampling.load_ag_news("someone/private")


def test_without_hub_the_sample_comes_under_a_loud_warning(own_cache):
    with pytest.warns(UserWarning, match="SAMPLE.*OFFLINE.*CHAPTERLIB_AG_NEWS") as seen:
        ds = sampling.load_ag_news()
    assert seen[0].filename == __file__
    info = sampling.describe(ds)
    assert (info.origin, info.name, info.is_sample) == (
        "sample",
        "chapterlib sample",
        True,
    )
    assert "the sample's, not AG News'" in info._repr_html_()


@pytest.fixture
def online(monkeypatch):
    """Allow requests, to an address on this machine only."""

    def use(url):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)

    return use


def test_closed_port_is_unreachable(online):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        online(f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "no connection" in (loading.unreachable() or "reached")


def serve(answer: bytes | None):
    """Take connections on a free port; answer each, or leave it hanging."""
    server = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def accept():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            taken.append(connection)
            if answer:
                connection.recv(4096)
                connection.sendall(answer)
                connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return server, taken


def test_server_that_never_answers_is_asked_once(online):
    server, taken = serve(None)
    with server:
        online(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert loading.unreachable(seconds=0.2)
    assert len(taken) == 1


@pytest.mark.parametrize(
    ("status", "reachable"),
    [("200 OK", True), ("404 Not Found", True), ("403 No", False), ("502 No", False)],
)
def test_status_of_a_hub_a_proxy_or_a_portal(online, status, reachable):
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    server, _ = serve(answer.encode())
    with server:
        online(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert (loading.unreachable() is None) == reachable


def test_hanging_name_resolution_does_not_hang_us(online, monkeypatch):
    release = threading.Event()

    class Session:
        def head(self, url, timeout):
            release.wait()

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    online("http://127.0.0.1:9")
    assert "did not answer" in (loading.unreachable(seconds=-0.9) or "reached")
    release.set()


# ---- describe, fingerprint, balanced_sample ----


def test_rows_of_elsewhere_are_of_unknown_origin(tiny_news):
    info = sampling.describe(tiny_news)
    assert (info.origin, info.name) == ("unknown", "unknown")
    assert "unknown origin" in info._repr_html_()


def test_mixed_splits_are_of_unknown_origin(tmp_path, tiny_news):
    ds = sampling.load_ag_news(write(tmp_path / "a"))
    ds["test"] = tiny_news["test"]
    assert sampling.describe(ds).origin == "unknown"


def test_origin_travels(tmp_path):
    rows = sampling.load_ag_news(write(tmp_path / "a", train=good(12)))["train"]
    kept = [
        rows.shuffle(seed=1).select(range(3)),
        rows.filter(lambda row: row["label"] > 0),
        rows.map(lambda row: {"n": len(row["text"])}),
        rows.train_test_split(0.5, seed=0)["train"],
        sampling.balanced_sample(rows, 1),
    ]
    assert [sampling.describe(k).origin for k in kept] == ["folder"] * len(kept)


def test_fingerprint_ignores_storage(tiny_news):
    rows = tiny_news["train"]
    wanted = sampling.fingerprint(rows)
    halves = concatenate_datasets([rows.select(range(5)), rows.select(range(5, 24))])
    backward = (
        rows.select(range(23, -1, -1)).flatten_indices().select(range(23, -1, -1))
    )
    more = rows.add_column("extra", list(range(24))).with_format("numpy")
    assert [sampling.fingerprint(d) for d in (halves, backward, more)] == [wanted] * 3


def test_fingerprint_sees_every_change(tiny_news):
    def of(texts, labels):
        return sampling.fingerprint(Dataset.from_dict({"text": texts, "label": labels}))

    assert of(["ab", "c"], [0, 1]) != of(["a", "bc"], [0, 1])
    assert of(["a", "b"], [0, 1]) != of(["b", "a"], [1, 0])
    assert of(["a", "b"], [0, 1]) != of(["a", "b"], [1, 0])
    assert of(["1:1:a", "b"], [0, 1]) != of(["1:1:a0:1:b"], [0])
    whole = sampling.describe(tiny_news).fingerprint
    swapped = DatasetDict({"train": tiny_news["test"], "test": tiny_news["train"]})
    assert whole != sampling.describe(swapped).fingerprint
    assert len(whole) == 16
    assert int(whole, 16) >= 0


def test_fingerprint_without_label():
    with pytest.raises(DataError, match="label"):
        sampling.fingerprint(Dataset.from_dict({"text": ["a"]}))


def test_balanced_samples_are_balanced_nested_and_seeded(tiny_news):
    rows = tiny_news["train"]
    small, large = (sampling.balanced_sample(rows, n, seed=3) for n in (2, 5))
    assert sorted(small["label"][:]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert large["text"][:8] == small["text"][:]
    assert small["label"][:] != sorted(small["label"][:])
    assert sampling.balanced_sample(rows, 2, seed=3)[:] == small[:]
    assert sampling.balanced_sample(rows, 2, seed=4)[:] != small[:]


def test_balanced_sample_without_class_names():
    rows = Dataset.from_dict({"text": list("abcd"), "label": [5, 5, 9, 9]})
    assert sorted(sampling.balanced_sample(rows, 1)["label"][:]) == [5, 9]


def test_a_balanced_sample_takes_what_there_is_where_it_may(tiny_news):
    rows = tiny_news["train"].select(range(1, 24))  # one class has a row less
    drawn = sampling.balanced_sample(rows, 100, seed=3, at_most=True)
    assert sorted(drawn["label"]) == sorted([*range(4)] * 5)
    assert drawn[:] == sampling.balanced_sample(rows, 5, seed=3)[:]
    assert sampling.balanced_sample(rows, 2, seed=3, at_most=True)[:] == drawn[:8]
    none = tiny_news["train"].filter(lambda row: row["label"] != 2)
    with pytest.raises(loading.DataError, match="The class Business has 0 rows"):
        sampling.balanced_sample(none, 1, at_most=True)


def test_balanced_sample_of_too_many(tiny_news):
    rows = tiny_news["train"].filter(lambda row, i: i != 1, with_indices=True)
    with pytest.raises(DataError, match="Sports has 5 rows, fewer than the 6"):
        sampling.balanced_sample(rows, 6)
    with pytest.raises(DataError, match="at least 1"):
        sampling.balanced_sample(rows, 0)


# ---- the audit ----


def news(texts, labels):
    return Dataset.from_dict({"text": texts, "label": labels}).cast_column(
        "label", ClassLabel(names=list(LABEL_NAMES))
    )


def test_audit_counts_what_is_there():
    train = news(
        [
            "It #39;s up (AP)",
            "It #39;s up (AP)",
            "it #39;s up -- AP",
            "a\\b &lt;b&gt;c&lt;/b&gt; (AP) (AP)",
            "see www.example.org",
            "one two three four five six seven eight nine",
            "One two three four five six seven eight ten",
            "plain; text (Q)",
        ],
        [0, 0, 1, 2, 3, 1, 1, 2],
    )
    test = news(["IT #39;S UP, (AP)", "new"], [0, 1])
    found = audit.audit(DatasetDict({"train": train, "test": test}), min_count=2)
    assert found.artifacts["train"].to_dict() == {
        "HTML entity": 4 / 8,
        "backslash": 1 / 8,
        "HTML tag": 1 / 8,
        "link": 1 / 8,
    }
    assert found.repeats["train"].tolist() == [1, 2, 3, 3, 0]
    assert found.repeats["test"].tolist() == [0, 0, 0, 0, 1]
    assert found.source_tags.index.tolist() == ["AP"]
    assert list(found.source_tags.loc["AP"]) == [4, "World", 3, 0.75]
    assert found.lengths.loc["test", "maximum"] == 4
    assert found.classes["train"].to_dict() == dict(
        zip(LABEL_NAMES, [2, 3, 2, 1], strict=True)
    )
    assert found.summary().loc["rows with HTML entity", "train"] == "50.0%"


def test_audit_of_one_split_without_names_or_tags():
    found = audit.audit(Dataset.from_dict({"text": ["a", "b"], "label": [5, 7]}))
    assert found.source_tags.empty
    assert found.classes["rows"].to_dict() == {"5": 1, "7": 1}
    assert found.summary().shape[1] == 1


def test_real_rows(ag_news_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = sampling.load_ag_news(ag_news_folder)
    assert sampling.describe(ds).rows == {"train": 14_112, "test": 3_800}
    assert ds["train"][0]["text"].startswith("Wall St. Bears Claw Back")
    assert ds["train"][0]["label"] == 2
    found = audit.audit(ds)
    # The full test file: 28.8% and 10.6%, 99th percentile 69 words; ours is half of it.
    assert found.artifacts.loc["HTML entity", "test"] == pytest.approx(0.288, abs=0.04)
    assert found.artifacts.loc["backslash", "test"] == pytest.approx(0.106, abs=0.01)
    assert found.lengths.loc["test", "99th percentile"] == pytest.approx(69, abs=2)
    assert found.source_tags.loc["SPACE.com", "label"] == "Sci/Tech"
    assert found.source_tags.loc["SPACE.com", "share"] == 1
    assert found.repeats.loc["text also in train", "test"] == 0


# ---- the shipped sample ----


@pytest.fixture(scope="module")
def sample():
    with pytest.warns(UserWarning, match="asked for by name"):
        return sampling.load_ag_news("sample")


def test_sample_is_large_enough_and_balanced(sample):
    found = audit.audit(sample)
    assert found.classes["train"].min() >= 120
    assert found.classes["test"].min() >= 60
    assert found.classes.nunique().tolist() == [1, 1]


def test_sample_has_no_repeats_and_no_test_text_in_train(sample):
    assert audit.audit(sample).repeats.to_numpy().sum() == 0


def test_sample_classes_interleave(sample):
    labels = sample["train"]["label"][:]
    assert set(labels[:20]) == {0, 1, 2, 3}


def test_sample_named_by_its_folder_is_still_the_sample():
    with pytest.warns(UserWarning, match="SAMPLE"):
        assert sampling.describe(sampling.load_ag_news(loading.SAMPLE)).is_sample
