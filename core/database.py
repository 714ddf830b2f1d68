"""Opening the ledger's database: SQLite (WAL) or PostgreSQL, migrated to the newest schema."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url

from .errors import InputError, StorageError, missing_extra
from .schema import HEAD

_KNOWN_REVISIONS = ("0001", HEAD)
_MIGRATION_LOCK = 0x48454C49  # PostgreSQL advisory lock of the schema


class Database:
    """A database with the ledger's tables.

    Args:
        url: SQLAlchemy URL, for example sqlite:////path/ledger.sqlite or
            postgresql+psycopg://user:password@host/name. Never shown with its password.
        create: create and migrate; otherwise a missing SQLite file is an error.

    Raises:
        InputError: the URL is not one, or of another kind of database.
        StorageError: it cannot be opened, or was written by a newer Heliodor.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = _parse(url)
        self.engine = _engine(self._url, create=create)
        # The last connection to close folds SQLite's write-ahead log back into the one file that
        # people copy; left to the interpreter's exit, connections are never closed.
        weakref.finalize(self, self.engine.dispose)
        with self.errors():
            self._migrate(create=create)

    @property
    def is_postgresql(self) -> bool:
        """Whether it is PostgreSQL rather than SQLite."""
        return self.engine.dialect.name == "postgresql"

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; SQLite takes its write lock at the start."""
        with self.errors(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, and waits for no writer."""
        with self.errors(), self.engine.connect() as connection:
            yield connection.execution_options(heliodor_read=True)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the driver's errors into one message without the password."""
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            cause = str(getattr(error, "orig", error)).strip().splitlines()
            raise StorageError(f"ledger {self}: {cause[0] if cause else error}", _hint(error)) from error

    def now(self, connection: Connection) -> float:
        """Seconds since the epoch by the one clock that all workers of the ledger share."""
        if self.is_postgresql:
            return float(connection.scalar(sa.text("select extract(epoch from clock_timestamp())")) or 0)
        return time.time()

    def insert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """An insertion that can say what to do about rows that are there."""
        return postgresql.insert(table) if self.is_postgresql else sqlite.insert(table)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _migrate(self, *, create: bool) -> None:
        with self.engine.begin() as connection:
            if self.is_postgresql:
                connection.execute(sa.text("select pg_advisory_xact_lock(:k)"), {"k": _MIGRATION_LOCK})
            revision = None
            if sa.inspect(connection).has_table("alembic_version"):
                revision = connection.scalar(sa.text("select version_num from alembic_version"))
            if revision == HEAD:
                return
            if revision is not None and revision not in _KNOWN_REVISIONS:
                raise StorageError(
                    f"ledger {self} has schema {revision}; this Heliodor knows up to {HEAD}",
                    hint="it was written by a newer version: pip install --upgrade heliodor",
                )
            if revision is None and not create:
                raise StorageError(f"{self} is not a Heliodor ledger")
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise InputError(
            "the ledger URL is not a database URL",
            hint="like sqlite:////path/ledger.sqlite or postgresql+psycopg://user@host/name",
        ) from error
    name = parsed.get_backend_name()
    if name == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if name != "sqlite":
        raise InputError(f"ledger on {name!r}; allowed: sqlite, postgresql")
    return parsed


def _engine(url: URL, *, create: bool) -> Engine:
    if url.get_backend_name() == "postgresql":
        try:
            return sa.create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=20)
        except ModuleNotFoundError as error:
            raise missing_extra("psycopg", "postgres") from error
    path = Path(url.database or "")
    if not create and not path.is_file():
        raise StorageError(f"no ledger at {path}", hint="heliodor run CAMPAIGN.yaml makes one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    engine = sa.create_engine(url, connect_args={"timeout": 60})

    @sa.event.listens_for(engine, "connect")
    def _connect(connection, _record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        connection.isolation_level = None  # transactions are begun below, not by the driver
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that begins DEFERRED waits for nobody; a writer takes the lock at once, so that it
        # never has to upgrade half-way and be refused.
        reads = connection.get_execution_options().get("heliodor_read", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _hint(error: Exception) -> str | None:
    text = str(error).lower()
    if "readonly" in text or "read-only" in text or "unable to open" in text:
        return "the folder must exist and be writable; choose another with --out or HELIODOR_LEDGER_URL"
    if "disk is full" in text or "no space" in text:
        return "free some space and run the same command again; what was recorded is kept"
    if "malformed" in text or "not a database" in text:
        return "the file is damaged or no ledger; restore it from a backup or start a new campaign"
    if "password" in text or "connection" in text:
        return "is the server up, and are user, password and database name right?"
    return None
