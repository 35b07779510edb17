"""
Accounts and sessions.
"""

import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from modern_fastapi.clock import as_text
from modern_fastapi.dependencies import AllServices, Tasks
from modern_fastapi.errors import Refusal, problems
from modern_fastapi.models import Login, Registered, Registration, Visitor
from modern_fastapi.requests import Json, StrictRoute
from modern_fastapi.schema import User
from modern_fastapi.tasks import records
from modern_fastapi.tasks.submissions import Batch

router = APIRouter(route_class=StrictRoute, default_response_class=Json)


@router.post("/register", status_code=201, responses=problems("conflict", body=True))
async def register(registration: Registration, services: AllServices, tasks: Tasks) -> Registered:
    """
    Makes an account; a welcome mail, the directory and the administrator follow, in this order.
    """
    user_id = str(uuid.uuid4())
    user = {"user_id": user_id, "email": registration.email, "name": registration.name}

    async def write(batch: Batch) -> list[str]:
        insert = services.database.insert(User).values(
            email_key=registration.email.lower(), created_at=as_text(services.clock.now()), **user
        )
        unless_known = insert.on_conflict_do_nothing(index_elements=["email_key"]).returning(User.user_id)
        if (await batch.connection.execute(unless_known)).scalar() is None:
            raise Refusal("conflict", "this e-mail address is registered")
        batch.created("row", "users", user)
        account = records.Account(**user)
        welcome = await batch.submit("email.welcome", account)
        directory = await batch.submit("directory.create", account, after=welcome)
        admin = records.NewUser(user_id=user_id, email=registration.email)
        notice = await batch.submit("admin.notify", admin, after=directory)
        return [welcome, directory, notice]

    return Registered(**user, task_ids=await tasks.write(write))


@router.post("/login", responses=problems(body=True))
async def login(visitor: Login, request: Request) -> Visitor:
    """
    Opens a session.
    """
    session: dict[str, Any] = request.session
    session.clear()
    session.update(name=visitor.name, visits=1)
    return Visitor(name=visitor.name, visits=1)


@router.get("/me", responses=problems("not_logged_in"))
async def me(request: Request) -> Visitor:
    """
    Who is here; each look counts as a visit.
    """
    session: dict[str, Any] = request.session
    if "name" not in session:
        raise Refusal("not_logged_in", "log in first")
    session["visits"] += 1
    return Visitor(name=session["name"], visits=session["visits"])


@router.post("/logout", status_code=204)
async def logout(request: Request) -> Response:
    """
    Ends the session, if there is one.
    """
    request.session.clear()
    return Response(status_code=204)
