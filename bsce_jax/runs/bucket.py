"""Objects of Google Cloud Storage, and local copies of them.

A run is kept at gs://BUCKET/RUN as the objects gs://BUCKET/RUN/config.json and so on. Programs work
on a copy in a local folder: objects cannot be appended to, renamed or locked.
"""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bsce_jax import errors
from bsce_jax.errors import UserError, using

if TYPE_CHECKING:
    from google.api_core.retry import Retry
    from google.cloud.storage import Blob

SECONDS = 300.0  # for which a request is repeated while the network or the service fails
THREADS = 4  # that transfer files, of which there are two groups; the client keeps 10 connections
LOCK = ".lock"


class Unreachable(UserError):
    """A bucket cannot be reached. The same command goes on once it can."""

    exit_code = 4


def is_remote(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is in a bucket."""
    return os.fspath(folder).startswith("gs:/")  # as pathlib writes it


class Objects:
    """The objects of a run.

    Args:
      url: gs://BUCKET/RUN.

    Raises:
      UserError: another form of `url`, or the client or the credentials are missing.
    """

    def __init__(self, url: str | os.PathLike[str]):
        parts = re.fullmatch(r"gs:/+([^/]+)/+(.*[^/])/*", os.fspath(url))
        if parts is None:
            raise UserError(f"{os.fspath(url)} is no run in a bucket: say gs://BUCKET/RUN")
        self.url = f"gs://{parts[1]}/{parts[2]}"
        self._prefix = f"{parts[2]}/"
        try:
            from google.cloud import storage
        except ModuleNotFoundError as error:
            raise UserError(
                f"{self.url} needs google-cloud-storage: pip install 'bsce_jax[gcs]'"
            ) from error
        with self._requests():
            self._client = storage.Client()
            try:
                self._bucket = self._client.bucket(parts[1])
            except ValueError as error:
                raise UserError(f"{self.url} cannot exist: {_line(error)}") from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def names(self) -> list[str]:
        """List the names of the objects below the run, without the lock.

        Raises:
          UserError: no such bucket, or no right to use it.
          Unreachable: as all methods.
        """
        with self._requests():
            found = self._client.list_blobs(
                self._bucket, prefix=self._prefix, fields="items(name),nextPageToken", retry=retry()
            )
            names = [blob.name.removeprefix(self._prefix) for blob in found]
        # the console makes empty objects for folders
        return [name for name in names if name != LOCK and not name.endswith("/") and name]

    def download(self, names: Sequence[str], folder: pathlib.Path) -> None:
        """Copy objects into a local folder; their checksums are compared."""
        from google.cloud.storage import transfer_manager

        with self._requests():
            transfer_manager.download_many_to_path(
                self._bucket,
                names,
                destination_directory=str(folder),
                blob_name_prefix=self._prefix,
                download_kwargs={"retry": retry()},
                raise_exception=True,
                worker_type=transfer_manager.THREAD,
                max_workers=THREADS,
            )

    def upload(self, names: Sequence[str], folder: pathlib.Path) -> None:
        """Copy files of a local folder; a reader finds the whole old or the whole new object."""
        from google.cloud.storage import transfer_manager

        with self._requests():
            transfer_manager.upload_many_from_filenames(
                self._bucket,
                names,
                source_directory=str(folder),
                blob_name_prefix=self._prefix,
                upload_kwargs={"retry": retry()},
                raise_exception=True,
                worker_type=transfer_manager.THREAD,
                max_workers=THREADS,
            )

    def remove(self, name: str) -> None:
        """Remove an object, which may be gone."""
        from google.api_core.exceptions import NotFound

        with self.blob(name) as blob, contextlib.suppress(NotFound):
            blob.delete(retry=retry())

    @contextlib.contextmanager
    def blob(self, name: str) -> "Iterator[Blob]":
        """Make requests about an object."""
        with self._requests():
            yield self._bucket.blob(self._prefix + name)

    @contextlib.contextmanager
    def _requests(self) -> Iterator[None]:
        """Turn errors of the client into a `UserError`."""
        import requests
        from google.api_core import exceptions
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

        try:
            yield
        except exceptions.NotFound as error:
            raise UserError(f"{self.url} is in no bucket that exists: {_line(error)}") from error
        except (exceptions.Forbidden, exceptions.Unauthorized) as error:
            raise UserError(f"no right to use {self.url}: {_line(error)}") from error
        except exceptions.BadRequest as error:
            raise UserError(f"cannot use {self.url}: {_line(error)}") from error
        except (
            DataCorruption,
            GoogleAuthError,
            InvalidResponse,
            exceptions.GoogleAPIError,
            requests.RequestException,
        ) as error:
            missing = isinstance(error, DefaultCredentialsError)
            if missing or (isinstance(error, RefreshError) and not error.retryable):
                raise UserError(
                    f"{self.url} needs credentials: gcloud auth application-default login"
                ) from error
            raise Unreachable(
                f"cannot reach {self.url} ({_line(error)}): the same command goes on from what is "
                "there"
            ) from error


class Local:
    """A local folder with the files of a run: its own, or a copy of its objects.

    The copy is removed with this object, or by `remove`.

    Args:
      folder: of the run, local or gs://BUCKET/RUN.
      wanted: tells by its name in the folder whether a file is needed.

    Attributes:
      folder: the local folder.

    Raises:
      UserError: the objects cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        wanted: Callable[[str], bool] = lambda name: True,
    ):
        self.folder = pathlib.Path(folder)
        self.remove: Callable[[], object] = lambda: None
        self._url: str | os.PathLike[str] | None = None
        if is_remote(folder):
            self._url = folder
            with using(tempfile.gettempdir()), contextlib.closing(Objects(folder)) as objects:
                self.folder = pathlib.Path(tempfile.mkdtemp(prefix="bsce_jax-"))
                errors.COPIES[str(self.folder)] = objects.url
                self.remove = weakref.finalize(self, _remove, self.folder)
                try:
                    names = [name for name in objects.names() if wanted(name)]
                    objects.download(names, self.folder)
                except BaseException:
                    self.remove()
                    raise

    def keep(self, name: str) -> None:
        """Copy a file that was written to the bucket, if the run is in one."""
        if self._url is not None:
            with contextlib.closing(Objects(self._url)) as objects:
                objects.upload([name], self.folder)


def of_results(name: str) -> bool:
    """Tell whether a file has results of a run: what a training alone needs is left out."""
    return not {"checkpoints", "tensorboard", "exemplars"} & set(name.split("/"))


def _remove(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    del errors.COPIES[str(folder)]


def retry() -> "Retry":
    """Make the rule by which a request is repeated."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(SECONDS)


def _line(error: Exception) -> str:
    """Say what a library says, in one line."""
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    text = re.sub(r"^[A-Z]+ https?://[^ ]+: ", "", text)  # the request
    return " ".join(text.split())[:200]
