"""
What a route may ask for by its type. All of it is async: FastAPI sends a plain function to a thread, where a request
waits for two wake-ups, and behind 40 that block.
"""

from typing import Annotated

from fastapi import BackgroundTasks, Depends, Request

from .database import Database
from .effects import effects_of
from .files import Files
from .services import Services
from .settings import Settings
from .tasks.submissions import Submissions


async def services_of(request: Request) -> Services:
    """
    The application's services.
    """
    services: Services = request.app.state.services
    return services


AllServices = Annotated[Services, Depends(services_of)]


async def _submissions(services: AllServices, request: Request, background: BackgroundTasks) -> Submissions:
    return Submissions(services, background, effects_of(request.scope))


async def _database(services: AllServices) -> Database:
    return services.database


async def _files(services: AllServices) -> Files:
    return services.files


async def _settings(services: AllServices) -> Settings:
    return services.settings


Tasks = Annotated[Submissions, Depends(_submissions)]
Store = Annotated[Database, Depends(_database)]
Folder = Annotated[Files, Depends(_files)]
Chosen = Annotated[Settings, Depends(_settings)]
