from __future__ import annotations

from pathlib import Path

import dotenv
import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

import chapterlib.settings
from chapterlib.settings import TIERS, get_settings


@pytest.fixture
def dotenv_in(tmp_path, monkeypatch):
    """Write a `.env` in a parent of the working folder and let it be found."""
    inner = tmp_path / "project" / "notebooks"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setattr(chapterlib.settings, "find_dotenv", dotenv.find_dotenv)
    file = tmp_path / "project" / ".env"
    return lambda text, encoding="utf-8": file.write_bytes(text.encode(encoding))


def test_defaults(monkeypatch):
    for name in (
        "CHAPTERLIB_CACHE",
        "CHAPTERLIB_DTYPE",
        "TOGETHER_API_KEY",
        "OPENAI_API_KEY",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    settings = get_settings()
    assert (settings.tier, settings.model, settings.dtype) == (
        "cpu",
        "embedded",
        "auto",
    )
    assert (settings.ag_news, settings.results, settings.device) == (None,) * 3
    assert settings.seed == 0
    assert settings.cache.is_absolute()
    assert "chapterlib" in settings.cache.parts
    assert settings.hf_token is settings.openai_api_key is None
    assert settings.llm_provider is settings.llm_model is settings.llm_base_url is None
    assert settings.budget_tokens is settings.budget_usd is None
    assert settings.price_prompt is settings.price_completion is None
    assert settings.requests_per_second is None


def test_environment_is_read_anew_at_each_call(monkeypatch):
    monkeypatch.setenv("CHAPTERLIB_TIER", "t4")
    assert get_settings().tier == "t4"
    monkeypatch.setenv("CHAPTERLIB_TIER", "gpu")
    assert get_settings().tier == "gpu"
    assert get_settings(tier="cpu").tier == "cpu"


def test_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("CHAPTERLIB_AG_NEWS", "")
    assert get_settings().ag_news is None


def test_dotenv_of_a_parent_folder_is_read_and_the_environment_wins(
    dotenv_in, monkeypatch
):
    dotenv_in("CHAPTERLIB_MODEL=from-file\nCHAPTERLIB_SEED=7\nOTHER=x\nHF_TOKEN=t\n")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("CHAPTERLIB_SEED", "8")
    settings = get_settings()
    assert (settings.model, settings.seed) == ("from-file", 8)
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "t"


def test_keys_have_no_prefix_and_never_print(monkeypatch):
    monkeypatch.setenv("TOGETHER_API_KEY", "secret-1")
    monkeypatch.setenv("CHAPTERLIB_OPENAI_API_KEY", "wrong-name")
    settings = get_settings(openai_api_key="secret-2")
    keys = (settings.together_api_key, settings.openai_api_key)
    assert [k and k.get_secret_value() for k in keys] == ["secret-1", "secret-2"]
    assert "secret-" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_paths_are_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = get_settings(cache="~/kept", results="here")
    assert settings.cache == Path.home() / "kept"
    assert settings.results == tmp_path / "here"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIER", "tpu"),
        ("SEED", "-1"),
        ("DTYPE", "int8"),
        ("LLM_PROVIDER", "pigeon"),
        ("LLM_BASE_URL", "127.0.0.1:8000/v1"),
        ("REQUESTS_PER_SECOND", "0"),
        ("BUDGET_TOKENS", "-1"),
        ("BUDGET_USD", "a lot"),
        ("PRICE_PROMPT", "-0.1"),
        ("PRICE_COMPLETION", "$1"),
    ],
)
def test_a_bad_value_is_refused_by_name(monkeypatch, name, value):
    monkeypatch.setenv(f"CHAPTERLIB_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        get_settings()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_dotenv_as_editors_save_it(dotenv_in, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    dotenv_in(f"{mark}CHAPTERLIB_MODEL=größer\nCHAPTERLIB_SEED=7\n", encoding)
    assert (get_settings().model, get_settings().seed) == ("größer", 7)


def test_dotenv_in_another_encoding_is_named(dotenv_in):
    dotenv_in("CHAPTERLIB_MODEL=größer\n", "cp1252")
    with pytest.raises(SettingsError, match=r"\.env is not in UTF-8 .*byte 19\): save"):
        get_settings()


def test_the_chat_model_is_a_setting(dotenv_in, monkeypatch):
    dotenv_in(
        "CHAPTERLIB_LLM_PROVIDER=openai\nCHAPTERLIB_LLM_MODEL=a/model:free\n"
        "CHAPTERLIB_LLM_BASE_URL=http://127.0.0.1:8000/v1\n"
        "CHAPTERLIB_REQUESTS_PER_SECOND=0.5\nCHAPTERLIB_BUDGET_TOKENS=100000\n"
        "CHAPTERLIB_BUDGET_USD=0.25\nCHAPTERLIB_PRICE_PROMPT=0.88\n"
        "CHAPTERLIB_PRICE_COMPLETION=0.88\n"
    )
    found = get_settings()
    assert (found.llm_provider, found.llm_model) == ("openai", "a/model:free")
    assert found.llm_base_url == "http://127.0.0.1:8000/v1"
    assert (found.requests_per_second, found.budget_tokens) == (0.5, 100_000)
    assert (found.budget_usd, found.price_prompt) == (0.25, 0.88)
    assert found.price_completion == 0.88


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        get_settings().seed = 3


@pytest.mark.parametrize("tier", ["cpu", "t4", "gpu"])
def test_the_tier_sets_model_and_sample_sizes(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERLIB_TIER", tier)
    found = get_settings()
    assert found.model == TIERS[tier].model
    assert found.train_per_class == TIERS[tier].train_per_class
    monkeypatch.setenv("CHAPTERLIB_MODEL", "embedded")
    monkeypatch.setenv("CHAPTERLIB_TEST_PER_CLASS", "7")
    assert get_settings().model == "embedded"
    assert get_settings().test_per_class == 7
