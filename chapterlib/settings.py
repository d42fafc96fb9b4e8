"""Settings of the book: one place for everything that differs between machines.

Every field can be set by an environment variable or by a line in a `.env` file
(searched from the working folder upward); the environment wins over the file.
"""

from __future__ import annotations

import codecs
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dotenv import find_dotenv
from platformdirs import user_cache_path
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

PACKAGE = Path(__file__).parent


class Tier(NamedTuple):
    """What one size of machine can do while a reader waits: as the settings' names."""

    model: str
    train_per_class: int
    test_per_class: int


TIERS = {
    "cpu": Tier("embedded", 128, 150),
    "t4": Tier("meta-llama/Llama-3.2-1B-Instruct", 500, 475),
    "gpu": Tier("meta-llama/Meta-Llama-3-8B-Instruct", 1000, 950),
}


def _of_tier(name: str) -> Any:
    """Make the default of a field from the tier that was set."""
    return lambda earlier: getattr(TIERS[earlier.get("tier", "cpu")], name)


class Settings(BaseSettings):
    """What the reader may change without touching a cell.

    A field ``name`` is read from ``CHAPTERLIB_NAME``; the three keys, which never
    print, from the names that their services use, without the prefix.
    """

    model_config = SettingsConfigDict(
        env_prefix="CHAPTERLIB_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    tier: Literal["cpu", "t4", "gpu"] = "cpu"
    # "embedded" (the small model that runs anywhere), a folder or a Hub id.
    model: str = Field(default_factory=_of_tier("model"))
    # Rows per class that the chapters work on live.
    train_per_class: int = Field(default_factory=_of_tier("train_per_class"), ge=1)
    test_per_class: int = Field(default_factory=_of_tier("test_per_class"), ge=1)
    # A folder or a Hub id that holds AG News, or "sample"; None: the Hub.
    ag_news: str | None = None
    # Where everything that is downloaded or computed once is kept.
    cache: Path = Field(
        default_factory=lambda: user_cache_path("chapterlib", appauthor=False)
    )
    results: Path | None = None  # None: `results/` of the project
    seed: int = Field(default=0, ge=0)
    device: str | None = None  # of torch; None: the best there is
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # Who serves the chat model: None is whoever the address or a key points to, and
    # else the embedded model on this machine.
    llm_provider: Literal["together", "openai", "local"] | None = None
    llm_model: str | None = None
    llm_base_url: str | None = Field(default=None, pattern=r"^https?://\S+$")
    # What one run may send and spend (None: no limit); prices per million tokens.
    requests_per_second: float | None = Field(default=None, gt=0)
    budget_tokens: int | None = Field(default=None, ge=0)
    budget_usd: float | None = Field(default=None, ge=0)
    price_prompt: float | None = Field(default=None, ge=0)
    price_completion: float | None = Field(default=None, ge=0)
    together_api_key: SecretStr | None = Field(
        default=None, validation_alias="TOGETHER_API_KEY"
    )
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias="OPENAI_API_KEY"
    )
    hf_token: SecretStr | None = Field(default=None, validation_alias="HF_TOKEN")

    @field_validator("cache", "results")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Notebooks and scripts run in different folders: a relative path would
        # silently mean another place in each.
        return None if path is None else path.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Look for `.env` anew at each call: the working folder may have changed."""
        found = find_dotenv(usecwd=True)
        if found:
            # As Windows' editors and shells save it: with a mark, or in UTF-16.
            start = Path(found).read_bytes()[:2]
            marks = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
            encoding = "utf-16" if start in marks else "utf-8-sig"
            try:
                dotenv_settings = DotEnvSettingsSource(
                    settings_cls, env_file=found, env_file_encoding=encoding
                )
            except UnicodeDecodeError as error:
                raise SettingsError(
                    f"the settings file {found} is not in UTF-8 ({error.reason}, byte "
                    f"{error.start}): save it again in UTF-8"
                ) from None
        return init_settings, env_settings, dotenv_settings


def get_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and `.env`, anew at each call.

    `overrides` win over both. `pydantic.ValidationError` names a field that has no
    such value, and what it allows; `SettingsError` a `.env` that can't be read.
    """
    return Settings(**overrides)


# Those whose version can change a result, a duration or a size.
PACKAGES = (
    *("accelerate", "bitsandbytes", "chapterlib", "datasets", "langchain-core"),
    *("numpy", "peft", "scikit-learn", "scipy", "torch", "transformers", "xllamacpp"),
)


def versions() -> dict[str, str]:
    """Tell the versions of Python and of the packages that matter to a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def data_file(name: str) -> Path:
    """Path of a file or folder that the package ships."""
    return PACKAGE / "data_files" / name


def results_folder() -> Path:
    """Folder of the records: `CHAPTERLIB_RESULTS`, else the checkout's `results/`.

    Without a checkout, that which was shipped inside the installed package.
    """
    chosen = get_settings().results
    if chosen is not None:
        return chosen
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "results").is_dir():
        return checkout / "results"
    return shipped_folder()


def shipped_folder() -> Path:
    """Folder of the records that an installed wheel carries."""
    return data_file("results")
