"""
The HTTP routes, one module for each subject.

- ``pages``      /, /healthz, /report/daily
- ``messages``   /send-notification, /send-email, /subscribe, /log
- ``accounts``   /register, /login, /me, /logout
- ``items``      /items, /process/{item_id}
- ``work``       /process, /compute, /unstable, /cleanup
- ``documents``  /upload, /export
- ``tasks``      /task, /tasks, /events
"""

from fastapi import APIRouter

from . import accounts, documents, items, messages, pages, tasks, work

ROUTERS: tuple[APIRouter, ...] = (
    pages.router,
    messages.router,
    accounts.router,
    items.router,
    work.router,
    documents.router,
    tasks.router,
)
