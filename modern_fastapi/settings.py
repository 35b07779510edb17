"""
Every setting of the application, with its default and its check.

They come from the environment (``JOBS_DATA``), from a TOML file that ``JOBS_FILE`` names (``data``), or from the
mapping given to ``create_app``. An unknown name or a wrong value is refused at start, never corrected in silence.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

PREFIX = "JOBS_"
LOOPS = ("consumer", "rescue", "daily_report", "cache_refresh", "cleanup")

EngineName = Literal["table", "inline", "asyncio", "thread", "celery", "rq", "dramatiq"]


class RefusedToStart(ValueError, SystemExit):
    """
    The application cannot start as it is set up; the text says what to change.

    It is a ``SystemExit`` too, so that a server that called the factory ends with this one line and status 1 instead
    of a traceback, and a ``ValueError``, so that a program that embeds the application catches it as usual.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text


class Settings(BaseModel):
    """
    One checked set of settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(Path("data"), description="folder for the database, the logs and all files; created at start")
    database: str = Field("", description="sqlite:///PATH or postgresql://…; empty: jobs.db in the data folder")
    upload_limit: int = Field(64 * 1024 * 1024, ge=1, description="largest body of POST /upload, in bytes")
    workers: int = Field(10, ge=1, le=1000, description="tasks that run at once in this process")
    poll: float = Field(1.0, gt=0, le=60, description="seconds between looks at the table when nobody rings")
    lease: float = Field(5.0, gt=0, le=3600, description="seconds without a heartbeat after which a task is rescued")
    grace: float = Field(4.0, ge=0, le=600, description="seconds that running work gets at shutdown")
    loops: str = Field(",".join(LOOPS), description="the loops to run here, comma-separated")
    engine: EngineName = Field("table", description="who runs the tasks that requests submit")
    heartbeat: float = Field(15.0, gt=0, le=3600, description="seconds between keep-alive comments of GET /events")
    smtp_host: str = Field("", description="mail server; empty: mail is written to the outbox folder")
    smtp_port: int = Field(25, ge=1, le=65535, description="port of the mail server")
    smtp_user: str = Field("", description="login of the mail server; empty: none")
    smtp_password: str = Field("", description="password of the mail server")
    smtp_starttls: bool = Field(False, description="encrypt before the login, and refuse to go on without")
    smtp_sender: str = Field("jobs@localhost", min_length=3, description="sender of all mail")
    smtp_timeout: float = Field(10.0, gt=0, le=600, description="seconds for each step of the SMTP dialogue")
    session_secret: str = Field("", description="key of the session cookie; empty: random, so sessions end with us")
    listen: str = Field(
        "tcp:8080:interface=127.0.0.1", description="the Twisted application's address when it runs alone"
    )
    broker: str = Field("", description="URL of the broker for celery, rq and dramatiq")

    @field_validator("loops")
    @classmethod
    def _known_loops(cls, value: str) -> str:
        for name in filter(None, (part.strip() for part in value.split(","))):
            if name not in LOOPS:
                raise ValueError(f"there is no loop {name!r}; choose from {', '.join(LOOPS)}")
        return value

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("write sqlite:///PATH or postgresql://USER@HOST/NAME, or leave it empty")
        return value

    @field_validator("smtp_sender")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if any(ord(character) < 32 for character in value) or "@" not in value:
            raise ValueError("write one e-mail address")
        return value

    @property
    def loop_names(self) -> tuple[str, ...]:
        """
        The loops to run here, in the order of the contract.
        """
        chosen = {part.strip() for part in self.loops.split(",")}
        return tuple(name for name in LOOPS if name in chosen)

    @property
    def database_url(self) -> str:
        """
        The database's URL, with the default filled in.
        """
        return self.database or f"sqlite:///{self.data / 'jobs.db'}"


def load_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """
    The settings of ``given``, or of the environment where nothing is given.

    Raises ``RefusedToStart`` with one line that names the setting, its value and the remedy.
    """
    if given is not None:
        return _checked({name: (value, name) for name, value in given.items()})
    values: dict[str, tuple[Any, str]] = {}
    environment = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    file = environment.pop(f"{PREFIX}FILE", None)
    if file:
        values.update({name: (value, f"{name} in {file}") for name, value in _read(Path(file)).items()})
    values.update({name[len(PREFIX) :].lower(): (value, name) for name, value in environment.items()})
    return _checked(values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RefusedToStart(
            f"{PREFIX}FILE names {path}, which cannot be read ({error.strerror}): write the file or unset {PREFIX}FILE."
        ) from error
    except ValueError as error:
        raise RefusedToStart(f"{path} is not valid TOML ({error}): mend the file or unset {PREFIX}FILE.") from error


def _checked(values: Mapping[str, tuple[Any, str]]) -> Settings:
    try:
        return Settings.model_validate({name: value for name, (value, _) in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        value, label = values[name]
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(Settings.model_fields))
            raise RefusedToStart(
                f"{label} is not a setting (its value is {value!r}): remove it, or use one of {known}."
            ) from error
        shown = "(hidden)" if "password" in name or "secret" in name else repr(value)
        remedy = str(first["msg"]).removeprefix("Value error, ")
        purpose = Settings.model_fields[name].description
        raise RefusedToStart(f"{label} is {shown}, which cannot be used: {remedy}. It is the {purpose}.") from error
