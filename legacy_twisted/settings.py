"""
What can be set, and what is refused before anything has started.

A setting is C{JOBS_NAME} in the environment, C{name} in the TOML file that
C{JOBS_FILE} names, or C{name} in the mapping given to C{makeSettings}.  The
environment wins over the file.  Nothing is read at import.
"""

import os
import tomllib

import attr

LOOPS = ("consumer", "rescue", "daily_report", "cache_refresh", "cleanup")
ENGINES = ("table", "inline", "thread")
MODERN_ENGINES = ("asyncio", "celery", "rq", "dramatiq")


class SettingsError(ValueError):
    """
    A setting is wrong: one line that names it, its value and the remedy.
    """

    def __init__(self, name, value, remedy):
        ValueError.__init__(self, f"setting {name} = {value!r}: {remedy}")
        self.name = name
        self.value = value


def text(name, value):
    if not isinstance(value, str):
        raise SettingsError(name, value, "give a text")
    return value


def flag(name, value):
    if isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return known[value.lower()]
    except (KeyError, AttributeError):
        raise SettingsError(name, value, "give true or false") from None


def whole(low, high):
    def check(name, value):
        try:
            if isinstance(value, (bool, float)):
                raise ValueError
            number = int(value)
        except (TypeError, ValueError):
            raise SettingsError(name, value, "give a whole number") from None
        if not low <= number <= high:
            raise SettingsError(name, value, f"give a number from {low} to {high}")
        return number

    return check


def seconds(low, high):
    def check(name, value):
        try:
            if isinstance(value, bool):
                raise ValueError
            number = float(value)
        except (TypeError, ValueError):
            raise SettingsError(name, value, "give a number of seconds") from None
        if not low <= number <= high:
            raise SettingsError(name, value, f"give {low:g} to {high:g} seconds")
        return number

    return check


def loops(name, value):
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
        raise SettingsError(name, value, "give names with commas between")
    names = tuple(n.strip() for n in names if n.strip())
    for unknown in set(names) - set(LOOPS):
        raise SettingsError(name, unknown, "the loops are " + ", ".join(LOOPS))
    return tuple(n for n in LOOPS if n in names)


def engine(name, value):
    if value in MODERN_ENGINES:
        # Both applications may share one environment: what only the other
        # has is done here by the durable table, and nothing is lost.
        return "table"
    if value not in ENGINES:
        raise SettingsError(name, value, "the engines are " + ", ".join(ENGINES + MODERN_ENGINES))
    return value


def database(name, value):
    if text(name, value) and not value.startswith(("sqlite:///", "postgresql://")):
        raise SettingsError(
            name, value, "give sqlite:///PATH or postgresql://USER@HOST/NAME"
        )
    return value


def unused(name, value):
    return value


def setting(default, check):
    return attr.ib(default=default, metadata={"check": check})


@attr.s(frozen=True)
class Settings:
    """
    All settings, checked.  C{data} and what lies below it are paths; times
    are in seconds, sizes in bytes.
    """

    data = setting("./data", text)
    database = setting("", database)
    upload_limit = setting(67108864, whole(1, 2**40))
    workers = setting(10, whole(1, 1000))
    poll = setting(1.0, seconds(0.01, 60))
    lease = setting(5.0, seconds(0.5, 3600))
    grace = setting(4.0, seconds(0, 3600))
    loops = setting(LOOPS, loops)
    engine = setting("table", engine)
    heartbeat = setting(15.0, seconds(0.01, 3600))
    smtp_host = setting("", text)
    smtp_port = setting(25, whole(1, 65535))
    smtp_user = setting("", text)
    smtp_password = attr.ib(default="", metadata={"check": text}, repr=False)
    smtp_starttls = setting(False, flag)
    smtp_sender = setting("jobs@localhost", text)
    smtp_timeout = setting(10.0, seconds(0.05, 600))
    # The modern application signs its cookies with it; our sessions are here.
    session_secret = attr.ib(default="", metadata={"check": unused}, repr=False)
    # For the modern application's engines.
    broker = setting("", unused)
    listen = setting("tcp:8080:interface=127.0.0.1", text)

    def path(self, *parts):
        """
        A path below the data folder.
        """
        return os.path.join(self.data, *parts)

    @property
    def databaseURL(self):
        return self.database or "sqlite:///" + self.path("jobs.db")


def makeSettings(given=None, environ=os.environ):
    """
    Check what was C{given} (a mapping), or else the environment and the
    file that it names.

    @raise SettingsError: for an unknown name or a wrong value.
    """
    if given is None:
        given = dict(readFile(environ))
        for key, value in environ.items():
            if key.startswith("JOBS_") and key != "JOBS_FILE":
                given[key[len("JOBS_") :].lower()] = value
    known = attr.fields_dict(Settings)
    values = {}
    for name, value in given.items():
        if name not in known:
            raise SettingsError(name, value, "no such setting; remove it, or see settings.py")
        values[name] = known[name].metadata["check"](name, value)
    settings = Settings(**values)
    return attr.evolve(settings, data=os.path.abspath(settings.data))


def readFile(environ):
    path = environ.get("JOBS_FILE")
    if not path:
        return {}
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError("JOBS_FILE", path, f"give a readable TOML file ({error})") from None
