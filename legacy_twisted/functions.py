"""
What each task does.  A function runs on a thread of the consumer, may
block, and gets the L{legacy_twisted.worker.Run} it is part of.

A process may die between a task's effect and the note of it, and the task
then runs again: every effect here can be repeated without showing.
"""

import contextlib
import csv
import hashlib
import json
import os
import time

from legacy_twisted import mail, tasks

CHUNK = 65536
HOUR = 3600.0


def appendLine(run, file, line):
    """
    Add one line to a log, in one write, and only once for a task.
    """
    path = run.jobs.settings.path(file)
    data = (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")
    if run.again and hasLine(path, data):
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def hasLine(path, data):
    try:
        with open(path, "rb") as file:
            return data in file
    except FileNotFoundError:
        return False


def writeNotification(run):
    email, message = run.params["email"], run.params["message"]
    appendLine(
        run, "notifications.log", {"email": email, "message": message, "task_id": run.id}
    )


def writeLog(run):
    appendLine(run, "app.log", {"message": run.params["message"], "task_id": run.id})


def notifyAdmin(run):
    line = {"user_id": run.params["user_id"], "email": run.params["email"], "task_id": run.id}
    appendLine(run, "admin.log", line)


def sendEmail(run):
    mail.deliver(run, run.params["email"], run.params["subject"], run.params["body"])


def sendWelcome(run):
    name = run.params["name"]
    body = f"Hello {name}, your account is ready.\n"
    mail.deliver(run, run.params["email"], f"Welcome, {name}", body)


def confirmSubscription(run):
    run.atEnd(upsertSubscription, email=run.params["email"])


def upsertSubscription(connection, email):
    connection.execute(
        "INSERT INTO subscriptions (email_key, email, confirmed_at) VALUES (:key, :email, :now)"
        " ON CONFLICT (email_key) DO UPDATE"
        " SET email = excluded.email, confirmed_at = excluded.confirmed_at",
        key=email.lower(),
        email=email,
        now=tasks.timestamp(),
    )


def createEntry(run):
    run.atEnd(upsertEntry, **run.params)


def upsertEntry(connection, user_id, email, name):
    connection.execute(
        "INSERT INTO directory (user_id, email, name, created_at)"
        " VALUES (:user_id, :email, :name, :now)"
        " ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, name = excluded.name",
        user_id=user_id,
        email=email,
        name=name,
        now=tasks.timestamp(),
    )


def processFile(run):
    """
    Count an upload, and keep its text in upper case.
    """
    settings = run.jobs.settings
    original = settings.path("uploads", run.params["upload_id"])
    processed = settings.path("processed", run.params["upload_id"] + ".txt")
    if not os.path.exists(original) and os.path.exists(processed):
        return countedBefore(processed)
    counts = count(run, original)
    part = f"{processed}.{run.jobs.boot}.part"
    try:
        with open(part, "wb") as target:
            target.write(b"# lines=%(lines)d words=%(words)d bytes=%(bytes)d\n"
                         % {key.encode(): number for key, number in counts.items()})
            with open(original, encoding="utf-8", errors="replace", newline="") as source:
                while chunk := source.read(CHUNK):
                    target.write(chunk.upper().encode("utf-8"))
                    run.checkpoint(0.5)
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, processed)
    finally:
        remove(part)
    remove(original)
    return counts


def countedBefore(processed):
    # The attempt before this one died after its last step.
    with open(processed, "rb") as file:
        words = file.readline().split()[1:]
    return {key: int(number) for key, number in (word.decode().split("=") for word in words)}


def count(run, path):
    """
    @return: lines, words and bytes of a text, in constant memory.
    """
    lines = words = 0
    inWord = False
    last = "\n"
    with open(path, encoding="utf-8", errors="replace", newline="") as source:
        while chunk := source.read(CHUNK):
            lines += chunk.count("\n")
            words += len(chunk.split())
            if inWord and not chunk[0].isspace():
                words -= 1
            inWord = not chunk[-1].isspace()
            last = chunk[-1]
            run.checkpoint(0.1)
    return {"lines": lines + (last != "\n"), "words": words, "bytes": os.path.getsize(path)}


def remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


EXPORTED = ("id", "name", "status", "attempts", "created_at", "finished_at")


def exportData(run):
    """
    Write all tasks that are older than this one to a file, page by page.
    """
    kind = run.params["format"]
    path = run.jobs.settings.path("exports", "{}.{}".format(run.params["export_id"], kind))
    part = f"{path}.{run.jobs.boot}.part"
    rows = 0
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            write = csvRows(file) if kind == "csv" else jsonRows(file)
            next(write)
            for page in pages(run):
                for row in page:
                    write.send([row[key] for key in EXPORTED])
                rows += len(page)
                run.checkpoint(0.5)
            write.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        remove(part)
    return {"rows": rows, "bytes": os.path.getsize(path)}


def pages(run, size=500):
    seq = 0
    while True:
        page = run.jobs.database.readNow(exportPage, seq, run.row["seq"], size)
        if not page:
            return
        yield page
        seq = page[-1]["seq"]


def exportPage(connection, seq, before, size):
    return connection.rows(
        f"SELECT seq, {', '.join(EXPORTED)} FROM tasks"
        " WHERE seq > :seq AND seq < :before ORDER BY seq LIMIT :size",
        seq=seq,
        before=before,
        size=size,
    )


def csvRows(file):
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(EXPORTED)
    while True:
        writer.writerow((yield))


def jsonRows(file):
    separator = "["
    try:
        while True:
            values = yield
            row = json.dumps(
                dict(zip(EXPORTED, values, strict=True)), ensure_ascii=False, separators=(",", ":")
            )
            file.write(separator + row)
            separator = ","
    finally:
        file.write("[]\n" if separator == "[" else "]\n")


FOLDERS = ("uploads", "processed", "exports", "outbox")


def cleanFiles(run):
    """
    Remove what is older than so many days and needed by no unfinished task.
    What may still be on its way in, or be half written, has an hour.
    """
    settings = run.jobs.settings
    now = time.time()
    limit = now - run.params["days"] * 86400
    needed = run.jobs.database.readNow(neededFiles)
    removed = []
    for folder in FOLDERS:
        with os.scandir(settings.path(folder)) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}"
                if entry.name.split(".")[0] in needed or not entry.is_file(follow_symlinks=False):
                    continue
                underWay = folder == "uploads" or name.endswith(".part")
                try:
                    written = entry.stat(follow_symlinks=False).st_mtime
                    if written < (min(limit, now - HOUR) if underWay else limit):
                        os.remove(entry.path)
                        removed.append(name)
                except FileNotFoundError:
                    # It has just got its name, or somebody else has removed it.
                    continue
        run.checkpoint(0.5)
    return {"removed": sorted(removed)}


def neededFiles(connection):
    """
    The ids in the names of files that unfinished tasks will read or write.
    """
    needed = set()
    for row in connection.rows(
        "SELECT id, params FROM tasks WHERE status IN ('PENDING', 'RUNNING', 'RETRY')"
    ):
        params = json.loads(row["params"])
        needed.add(row["id"])
        needed.update(params.get(key) for key in ("upload_id", "export_id"))
    return needed


def processData(run):
    data = run.params["data"]
    canonical = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass"))
    return {"keys": len(data), "sha256": digest.hexdigest()}


def computePrimes(run):
    return {"count": run.jobs.processes.run(run, run.params["n"])}


def callUnstable(run):
    failures = run.params["failures"]
    if run.row["failures"] < failures:
        raise RuntimeError(f"unstable: failure {run.row['failures'] + 1} of {failures}")
    return {"attempts": run.row["attempts"]}


FUNCTIONS = {
    "notification.write": writeNotification,
    "email.send": sendEmail,
    "email.welcome": sendWelcome,
    "subscription.confirm": confirmSubscription,
    "directory.create": createEntry,
    "admin.notify": notifyAdmin,
    "log.write": writeLog,
    "file.process": processFile,
    "export.data": exportData,
    "files.cleanup": cleanFiles,
    "data.process": processData,
    "compute.primes": computePrimes,
    "api.unstable": callUnstable,
}


def find(name):
    if name not in FUNCTIONS:
        raise LookupError(f"this process knows no task {name!r}")
    return FUNCTIONS[name]
