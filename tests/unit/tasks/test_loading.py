"""Rows from files, folders and the Hub: read, checked, never those of another."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import IPython.display
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from chapterlib.tasks import files, loading
from chapterlib.tasks.loading import DataError
from chapterlib.tasks.sampling import describe, fingerprint
from chapterlib.tasks.task import AG_NEWS, Task

MOOD = Task("Mood", ("bad", "good"))


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
    ds = AG_NEWS.load(write(tmp_path / "a"))
    assert list(ds) == ["train", "test"]
    assert ds["train"].features["label"].names == list(AG_NEWS.label_names)
    assert ds["train"][:] == good()
    assert describe(ds).origin == "folder"
    assert describe(ds).rows == {"train": 4, "test": 4}


def test_folder_named_by_the_setting_and_relative(tmp_path, monkeypatch):
    write(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHAPTERLIB_AG_NEWS", "a")
    assert describe(AG_NEWS.load()).origin == "folder"


def test_saved_dataset_dict(tmp_path, tiny_news):
    tiny_news.save_to_disk(tmp_path / "saved")
    ds = AG_NEWS.load(str(tmp_path / "saved"))
    assert ds["test"][:] == tiny_news["test"][:]
    assert fingerprint(ds["train"]) == fingerprint(tiny_news["train"])


def test_label_names_in_any_case_and_other_columns_left_out(tmp_path):
    rows = {
        "id": [7, 8, 9, 10],
        "label": ["sci/tech", "WORLD", " Sports", "Business"],
        "text": list("abcd"),
    }
    ds = AG_NEWS.load(write(tmp_path / "a", train=rows))
    assert ds["train"]["label"][:] == [3, 0, 1, 2]
    assert ds["train"].column_names == ["text", "label"]


def test_names_decide_where_a_folder_numbers_the_classes_otherwise(tmp_path):
    ds = AG_NEWS.load(write(tmp_path / "a", readme=README))
    assert ds["train"]["label"][:] == [3, 0, 1, 2]


def test_changed_folder_never_serves_old_rows(tmp_path):
    folder = write(tmp_path / "a")
    before = AG_NEWS.load(folder)
    file = folder / "data" / "train-00000-of-00001.parquet"
    stamp = file.stat()
    changed = good()
    changed["text"][2] = "item X"
    pd.DataFrame(changed).to_parquet(file)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = AG_NEWS.load(folder)
    assert before["train"][2]["text"] == "item 2"
    assert after["train"][2]["text"] == "item X"
    assert describe(before).fingerprint != describe(after).fingerprint


@pytest.mark.parametrize("task", [AG_NEWS, MOOD], ids=lambda task: task.name)
def test_two_folders_of_one_name_that_hold_a_card(tmp_path, task):
    """`datasets` 5.2 takes them for the same: it returns the first one's rows twice."""
    card = README.split("dataset_info")[0] + "---\n"
    names = task.label_names
    for parent, n in (("one", 4), ("two", 8)):
        rows = {"text": [f"{parent} {i}" for i in range(n)]}
        rows["label"] = [names[i % len(names)] for i in range(n)]
        write(tmp_path / parent / "news", train=rows, test=rows, readme=card)
    for parent, n in (("one", 4), ("two", 8), ("one", 4)):
        ds = task.load(tmp_path / parent / "news")
        assert ds.num_rows == {"train": n, "test": n}
        assert ds["train"]["text"][0] == f"{parent} 0"


def test_reading_a_folder_leaves_nothing_in_the_cache(tmp_path, own_cache):
    ds = AG_NEWS.load(write(tmp_path / "a"))
    assert not any(rows.cache_files for rows in ds.values())
    assert not own_cache.exists()


BAD = [
    ({"text": list("abcd")}, "train.*no column 'label'; there are.*Name the columns"),
    ({"label": [0, 1]}, "train.*no column 'text'"),
    ({"text": list("abc"), "label": [0, 1, 9]}, "train.*1 of 3 rows.*row 2.*is 9"),
    ({"text": list("ab"), "label": [4, 1]}, "row 0.*count the classes from 1"),
    ({"text": list("abc"), "label": [0, None, None]}, "2 of 3 rows.*row 1"),
    ({"text": list("ab"), "label": [0.5, 1.0]}, "1 of 2 rows.*row 0.*0.5"),
    ({"text": list("ab"), "label": ["World", "Weather"]}, "row 1.*'Weather'"),
    ({"text": list("ab"), "label": ["World", "Sprots"]}, "Should it be 'Sports'"),
    ({"text": ["a", "  "], "label": [0, 1]}, "1 of 2 rows have no text.*row 1"),
    ({"text": ["a", None], "label": [0, 1]}, "1 of 2 rows have no text.*Remove"),
    (
        {"text": list("abc"), "label": [0, 1, 3]},
        "'train': no row of (Business|Sports). Add",
    ),
    ({"text": [], "label": []}, "train.*no rows"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
@pytest.mark.parametrize("readme", ["", README], ids=["plain", "with-readme"])
def test_bad_rows_are_named(tmp_path, rows, message, readme):
    folder = write(tmp_path / "bad", train=rows, readme=readme)
    with pytest.raises(DataError, match=message) as caught:
        AG_NEWS.load(folder)
    assert str(folder) in str(caught.value)


def test_bad_rows_in_the_test_split_are_named(tmp_path):
    folder = write(tmp_path / "bad", test={"text": ["a"], "label": [-1]})
    with pytest.raises(DataError, match="split 'test': 1 of 1 rows"):
        AG_NEWS.load(folder)


def test_class_names_that_the_task_lacks_are_refused(tmp_path, tiny_news):
    names = ClassLabel(names=["a", "World", "Sports", "Business", "Sci/Tech"])
    ds = DatasetDict({s: d.cast_column("label", names) for s, d in tiny_news.items()})
    ds.save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="Its label is 'a'"):
        AG_NEWS.load(tmp_path / "saved")


def test_a_number_beyond_the_class_names_is_no_id_of_the_task():
    names = ClassLabel(names=["World", "Sports"])
    frame = pd.DataFrame({"text": ["a"], "label": [3]})
    table = loading.Table(frame, {"label": names})
    form = loading.Form("News", "text", "label", AG_NEWS.label_names, AG_NEWS.parse)
    with pytest.raises(DataError, match="Its label is 3"):
        loading._texts_and_ids(table, "here", form)


def test_missing_split_wrong_path_and_no_data(tmp_path):
    with pytest.raises(DataError, match=r"no split 'test'.*found"):
        AG_NEWS.load(write(tmp_path / "one", test={}))
    Dataset.from_dict(good()).save_to_disk(tmp_path / "single")
    with pytest.raises(DataError, match=r"no split 'test'; found: \['train'\]"):
        AG_NEWS.load(tmp_path / "single")
    with pytest.raises(DataError, match=r"does not exist.*absolute path"):
        AG_NEWS.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is none of \.csv.*save it as one"):
        AG_NEWS.load(__file__)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"can't be read.*should hold"):
        AG_NEWS.load(tmp_path / "empty")


def test_short_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="fancyzhx/ag_news"):
        AG_NEWS.load("ag_news")


def test_huge_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILES", 1)
    with pytest.raises(DataError, match="holds 1 files or more"):
        AG_NEWS.load(write(tmp_path / "a"))


@pytest.mark.filterwarnings("error")
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, fake_hub):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "file" / "cache"))
    assert AG_NEWS.load(write(tmp_path / "a"))["train"].num_rows == 4
    with pytest.raises(DataError, match="Set CHAPTERLIB_CACHE"):
        AG_NEWS.load("someone/news")


# ---- single files ----


@pytest.fixture
def csv(tmp_path):
    """Write a CSV file and give its path."""

    def written(content, name="rows.csv", encoding="utf-8"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content.encode(encoding))
        return tmp_path / name

    return written


def test_what_stands_in_csv_stays_text(csv):
    path = csv('\ufeffquote,grade\nNA,1\n007,10\n"null, and\nnone",NA\nnan,01\n4.0,2\n')
    task = Task.from_csv(path, "quote", "grade")
    assert task.label_names == ("01", "1", "10", "2", "NA")
    ds = task.load()
    assert list(ds) == ["train"]
    assert ds["train"]["text"][:] == ["NA", "007", "null, and\nnone", "nan", "4.0"]
    assert [task.label_names[i] for i in ds["train"]["label"]] == [
        "1", "10", "NA", "01", "2",
    ]  # fmt: skip


KINDS = {
    "rows.csv": 'text,label\nwell,good\n"so, so",bad\n',
    "train.tsv": "text\tlabel\nwell\tgood\nso, so\tbad\n",
    "rows.json": '[{"text": "well", "label": "good"}, '
    '{"text": "so, so", "label": "bad", "note": 1}]',
    "rows.jsonl": '{"text": "well", "label": 1}\n\n{"label": 0, "text": "so, so"}\n',
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_files(csv, name):
    ds = MOOD.load(csv(KINDS[name], name))
    assert ds["train"][:] == {"text": ["well", "so, so"], "label": [1, 0]}
    assert describe(ds).name == "Mood"


def test_a_single_parquet_file_for_testing_and_loaded_rows(tmp_path, tiny_news):
    tiny_news["test"].select([1]).to_parquet(tmp_path / "test-0.parquet")
    ds = AG_NEWS.load(tiny_news)
    assert describe(ds).origin == "unknown"
    assert ds["train"][:] == tiny_news["train"][:]
    task = Task.from_dataset(tiny_news)
    assert task.load(tmp_path / "test-0.parquet")["test"]["label"][:] == [1]
    assert list(task.load(tiny_news["train"])) == ["train"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na, b,good\nc,d,bad\n", r"rows\.csv can't be read.*quotes"),
        ("text,label\na,good\nc, d,bad\n", r"rows\.csv can't be read.*line 3"),
        ('text,label\n"a,good\nc,bad\n', r"rows\.csv can't be read.*row 1"),
        ("a;good\nb;bad\n", r"'train': no column 'text'; there are \['a', 'good'\]"),
        ("a,good\nb,bad\n", r"rows\.csv.*no column 'text'.*in CSV in the first line"),
        ("text,label\n", "'train': no rows"),
        ("", "can't be read: No columns"),
        ("text,label\na,\nb,good\nc,bad\n", "row 0 .*Its label is ''"),
    ],
)
def test_csv_files_that_are_not_right(csv, content, message):
    with pytest.raises(DataError, match=message):
        MOOD.load(csv(content))


def test_the_original_ag_news_has_no_header_and_counts_from_1(tmp_path):
    lines = [f'"{i}","Title {i}, same","Title {i}, same"' for i in (3, 1, 4, 2)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    rows = AG_NEWS.load(tmp_path)["train"]
    assert rows["label"][:] == [2, 0, 3, 1]
    assert rows["text"][0] == "Title 3, same Title 3, same"


def test_stars_of_such_a_file_are_known_by_name(csv):
    lines = [f'"{i}","Title {i}","text"' for i in (3, 1, 2)]
    path = csv("\n".join(lines))
    stars = Task.from_csv(path)
    assert stars.label_names == ("1", "2", "3")
    assert stars.load()["train"]["label"][:] == [2, 0, 1]
    with pytest.raises(DataError, match=r"row 0.*Its label is '3'"):
        MOOD.load(path)


def test_ag_news_as_kaggle_has_it(csv, tmp_path):
    lines = [f"{i},Title {i},text" for i in (3, 1, 4, 2)]
    for name in ("train.csv", "test.csv"):
        csv("\n".join(["Class Index,Title,Description", *lines]), name)
    assert AG_NEWS.load(tmp_path)["test"][:] == {
        "text": [f"Title {i} text" for i in (3, 1, 4, 2)],
        "label": [2, 0, 3, 1],
    }


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_marks_between_columns(csv, mark):
    lines = [["text", "label"], ["well, so", "good"], ["so; so", "bad"]]
    quoted = "\n".join(mark.join(f'"{x}"' for x in line) for line in lines)
    rows = MOOD.load(csv(quoted))["train"]
    assert rows[:] == {"text": ["well, so", "so; so"], "label": [1, 0]}


def test_class_ids_as_tools_write_them(csv):
    ids = "text,label\na,1.0\nb,0.0\n"
    assert MOOD.load(csv(ids))["train"]["label"][:] == [1, 0]
    assert Task.from_csv(csv(ids)).label_names == ("0", "1")
    stars = Task("Stars", ("1", "2"))
    assert stars.load(csv("text,label\na,1.0\nb,2.0\n"))["train"]["label"][:] == [0, 1]
    kept = Task.from_csv(csv("text,label\na,1.0\nb,1.1\nc,2.0\n"))
    assert kept.label_names == ("1.0", "1.1", "2.0")
    assert kept.load()["train"]["label"][:] == [0, 1, 2]


def test_true_and_false(csv):
    lines = '{"text": "a", "label": true}\n{"text": "b", "label": false}'
    task = Task.from_csv(csv(lines, "rows.jsonl"))
    assert task.label_names == ("False", "True")
    assert task.load()["train"]["label"][:] == [1, 0]
    written = csv("text,label\na,TRUE\nb,false\n")
    assert task.load(written)["train"]["label"][:] == [1, 0]
    with pytest.raises(DataError, match=r"row 0.*Its label is True"):
        MOOD.load(csv(lines, "rows.jsonl"))


@pytest.mark.parametrize("other", ["test_small.csv", "my-test.csv", "test2.csv"])
def test_a_file_that_is_in_a_split_by_accident_is_named(tmp_path, csv, other):
    lines = "text,label\nwell,good\nso so,bad\n"
    for name in ("train.csv", "test.csv"):
        csv(lines, name)
    accident = csv(lines, other)
    with pytest.raises(DataError, match=f"'test' would be .*{other}.* Move away"):
        MOOD.load(tmp_path)
    accident.unlink()
    csv(lines, f"elsewhere/data/{other}")
    csv(lines, "elsewhere/data/test.csv")
    csv(lines, "elsewhere/data/train.csv")
    with pytest.raises(DataError, match=f"'test' would be .*{other}"):
        MOOD.load(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    assert MOOD.load(tmp_path).num_rows == {"train": 2, "test": 2}
    for i in range(2):
        csv(lines, f"train/part{i}.csv")
    (tmp_path / "train.csv").unlink()
    assert MOOD.load(tmp_path).num_rows["train"] == 4


def test_what_a_card_names_is_no_accident(tmp_path, csv):
    lines = "text,label\nwell,good\nso so,bad\n"
    for name in ("train.csv", "train_more.csv"):
        csv(lines, name)
    card = "configs:\n- config_name: default\n  data_files:\n  - split: train\n"
    card += "    path: [train.csv, train_more.csv]\n"
    csv(f"---\n{card}---\n", "README.md")
    assert MOOD.load(tmp_path).num_rows == {"train": 4}


def test_half_a_character_is_named_by_file_and_row(csv):
    lines = ['{"text": "fine", "label": "bad"}', '{"text": "\\ud83d", "label": "good"}']
    path = csv("\n".join(lines), "rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl.*lone surrogate.*row 1"):
        MOOD.load(path)


def test_other_files_that_are_not_right(csv):
    lines = "text,label\nfine,bad\nGrün,good\n"
    with pytest.raises(DataError, match=r"rows\.csv .*line 3 .*0xfc.*again.*in UTF-8"):
        MOOD.load(csv(lines, encoding="cp1252"))
    for encoding in ("utf-16", "utf-16-le"):
        with pytest.raises(DataError, match=r"rows\.csv .*in UTF-16.*again.*in UTF-8"):
            MOOD.load(csv(lines, encoding=encoding))
    with pytest.raises(DataError, match=r"rows\.jsonl can't be read.*line 2"):
        MOOD.load(csv('{"text": "a"}\n{"text": \n', "rows.jsonl"))
    line = '{"text": "a", "label": "good"}\n{"text": "b", "label": ["good", "bad"]}'
    with pytest.raises(DataError, match=r"row 1 .*Its label is \['good', 'bad'\]"):
        MOOD.load(csv(line, "rows.jsonl"))
    with pytest.raises(DataError, match=r"data/rows\.csv does not exist"):
        MOOD.load("data/rows.csv")
    with pytest.raises(DataError, match="no source of its own"):
        MOOD.load()
    with pytest.raises(DataError, match="'sample'"):
        MOOD.load("sample")


def test_numbers_are_names_where_the_task_has_such_names(csv):
    stars = Task("Stars", ("1", "2", "3"))
    rows = pd.DataFrame({"text": list("abc"), "label": [3.0, 1.0, 2.0]})
    ds = stars.load(Dataset.from_pandas(rows))
    assert ds["train"]["label"][:] == [2, 0, 1]
    with pytest.raises(DataError, match="Its label is '0'"):
        stars.load(csv("text,label\na,0\nb,1\n"))


def test_rows_of_banking77(banking77_folder):
    task = Task.from_csv(banking77_folder / "train.csv", "text", "category")
    assert len(task.labels) == 77
    ds = task.load(banking77_folder)
    assert ds.num_rows == {"train": 10_003, "test": 1_540}
    frame = pd.read_csv(banking77_folder / "test.csv")
    assert ds["test"]["text"][:] == frame["text"].tolist()
    labels = ds["test"].features["label"]
    assert labels.int2str(ds["test"]["label"][:]) == frame["category"].tolist()


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
    assert describe(AG_NEWS.load()).origin == "hub"
    monkeypatch.setattr(loading, "unreachable", lambda: "no network")
    ds = AG_NEWS.load()
    assert describe(ds.shuffle(seed=1)["train"].select([0])).origin == "hub"
    assert fake_hub == [("fancyzhx/ag_news", "dataset", "t")]


def test_hub_rows_of_another_count_are_not_ag_news(fake_hub, own_cache):
    with pytest.raises(DataError, match=r"not {'train': 120000"):
        AG_NEWS.load("fancyzhx/ag_news")
    with pytest.warns(UserWarning, match="NOT AG NEWS.*has {'train': 4"):
        assert describe(AG_NEWS.load()).is_sample


def test_another_hub_id_may_have_other_counts(fake_hub, own_cache):
    assert AG_NEWS.load("someone/news")["train"].num_rows == 4
    task = Task("News", AG_NEWS.labels, source="someone/news")
    assert describe(task.load()).origin == "hub"
    assert len(fake_hub) == 1


def test_files_of_the_hub_are_kept_only_where_their_rows_are_right(
    fake_hub, own_cache, tmp_path
):
    write(tmp_path / "hub", train={"text": [""], "label": [0]})
    for _ in range(2):
        with pytest.raises(DataError, match=r"Hub dataset 'someone/news', split 'tr"):
            AG_NEWS.load("someone/news")
    assert len(fake_hub) == 2
    assert not list((own_cache / "datasets").iterdir())
    write(tmp_path / "hub")
    assert AG_NEWS.load("someone/news").num_rows == {"train": 4, "test": 4}


def test_what_a_killed_download_left_goes_at_the_next_call(fake_hub, own_cache):
    for name in ("part-someone--news", "scratch-0"):  # the second of version 0.1.0
        left = own_cache / "datasets" / name
        left.mkdir(parents=True)
        (left / "test-9.csv").write_text("text,label\nhalf")
    assert AG_NEWS.load("someone/news").num_rows == {"train": 4, "test": 4}
    kept = [path.name for path in (own_cache / "datasets").iterdir()]
    assert kept == ["someone--news"]


def test_where_the_libraries_read_ag_news_from(fake_hub, own_cache, monkeypatch):
    assert loading.ag_news_source() == "fancyzhx/ag_news"
    monkeypatch.setattr(loading, "unreachable", lambda: "no network")
    assert loading.ag_news_source() == str(loading.SAMPLE)
    kept = own_cache / "datasets" / "fancyzhx--ag_news"
    kept.mkdir(parents=True)
    assert loading.ag_news_source() == str(kept)
    for named, found in (
        ("sample", loading.SAMPLE),
        ("a/b", "a/b"),
        ("~", Path.home()),
    ):
        monkeypatch.setenv("CHAPTERLIB_AG_NEWS", named)
        assert loading.ag_news_source() == str(found)


def test_named_hub_id_that_fails_is_an_error_never_the_sample(
    fake_hub, own_cache, monkeypatch
):
    def refuse(*args, **kwargs):
        raise OSError("401 Client Error")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(DataError, match=r"401 Client Error.*HF_TOKEN"):
        AG_NEWS.load("someone/private")
    monkeypatch.undo()
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(own_cache))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        AG_NEWS.load("someone/private")


def test_without_hub_the_sample_comes_under_a_loud_warning(own_cache):
    with pytest.warns(UserWarning, match="SAMPLE.*OFFLINE.*CHAPTERLIB_AG_NEWS") as seen:
        info = describe(AG_NEWS.load())
    assert seen[0].filename == __file__
    assert info.is_sample
    assert (info.origin, info.name) == ("sample", "chapterlib sample")
    assert "the sample shipped with chapterlib, not AG News" in info._repr_html_()
    with pytest.warns(UserWarning, match="asked for by name"):
        assert describe(AG_NEWS.load(loading.SAMPLE)).is_sample


@pytest.mark.filterwarnings("error")
def test_in_a_notebook_the_sample_comes_with_a_box_instead(own_cache, monkeypatch):
    shown = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=1))
    monkeypatch.setattr(IPython.display, "display", lambda box: shown.append(box.data))
    AG_NEWS.load()
    assert len(shown) == 1
    assert "NOT AG NEWS" in shown[0]
    assert "HF_HUB_OFFLINE is set" in shown[0]
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    with pytest.raises(UserWarning):
        AG_NEWS.load()


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
