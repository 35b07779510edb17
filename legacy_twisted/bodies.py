"""
Request bodies, read while they arrive: JSON into memory, an upload into a
file, and what is too large nowhere.

They stand in a request's C{content}: Twisted writes what it receives into
them, and closes them when the request has been answered or its client has
gone.  That is why nothing is left behind.
"""

import io
import os
import uuid

from legacy_twisted.multipart import Malformed, MultipartParser, boundary

JSON_LIMIT = 1048576


def mediaType(headers):
    """
    The body's media type without its parameters, in lower case.
    """
    values = headers.getRawHeaders(b"Content-Type") or [b""]
    return values[-1].partition(b";")[0].strip().lower()


class JsonBody(io.BytesIO):
    """
    A body in memory.  What exceeds the limit is thrown away as it comes.
    """

    limit = JSON_LIMIT

    def __init__(self, length=None):
        io.BytesIO.__init__(self)
        self.tooLarge = length is not None and length > self.limit

    def write(self, data):
        if self.tooLarge or self.tell() + len(data) > self.limit:
            self.tooLarge = True
            self.seek(0)
            self.truncate()
            return len(data)
        return io.BytesIO.write(self, data)


class UploadBody:
    """
    A multipart body.  Its part C{file} goes to a file of its own at once.

    @ivar filename: the client's name for it, or L{None} where the part had
        none.
    @ivar found: whether there was such a part.
    @ivar error: L{Malformed}, or another reason why nothing was kept.
    """

    filename = None
    found = False
    error = None
    _file = None
    _mine = False

    def __init__(self, settings, headers, length=None):
        self.limit = settings.upload_limit
        self.tooLarge = length is not None and length > self.limit
        self.path = settings.path("uploads", f"{uuid.uuid4()}.part")
        self.size = 0
        self._received = 0
        try:
            name = boundary((headers.getRawHeaders(b"Content-Type") or [b""])[-1])
            self._parser = MultipartParser(name, self)
        except Malformed as error:
            self.error = error

    def write(self, data):
        self._received += len(data)
        if self._received > self.limit:
            self.tooLarge = True
        if self.tooLarge or self.error:
            self.discard()
            return len(data)
        try:
            self._parser.feed(data)
        except (Malformed, OSError) as error:
            self.error = error
            self.discard()
        return len(data)

    def tell(self):
        return self._received

    def seek(self, offset, whence=0):
        """
        It is read as it comes, and once.
        """

    def read(self, size=-1):
        return b""

    def begin(self, name, filename):
        self._mine = name == "file"
        if not self._mine:
            return
        # Of several the last one counts.
        self.discard()
        self.found = True
        self.filename = filename
        self.size = 0
        if filename is not None:
            self._file = open(self.path, "wb")  # noqa: SIM115 - closed in discard()

    def data(self, data):
        if self._mine and self._file is not None:
            self._file.write(data)
            self.size += len(data)

    def end(self):
        self._mine = False

    def complete(self):
        """
        Called when all has arrived.

        @raise Malformed: when it can't be understood.
        """
        if self.error is None:
            self._parser.close()
        else:
            raise self.error

    def keep(self, path):
        """
        Move the file to where it stays.
        """
        self._file.close()
        self._file = None
        os.replace(self.path, path)

    def discard(self):
        if self._file is not None:
            self._file.close()
            self._file = None
            os.remove(self.path)

    close = discard
