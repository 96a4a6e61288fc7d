"""The API's root: builds the services, mounts the routers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import docs, errors, hosts, observability, openapi
from app.connections import Connections
from app.datasets.router import router as datasets_router
from app.db import Database
from app.dependencies import Services
from app.inference.catalogue import router as catalogue_router
from app.inference.engine import InferenceEngine
from app.inference.router import router as predict_router
from app.jobs.router import router as jobs_router
from app.jobs.sweeper import Sweeper
from app.keys.router import router as keys_router
from app.limits import BodyLimitMiddleware
from app.meta_learners.router import router as meta_learners_router
from app.models.router import router as models_router
from app.open_inference.router import router as open_inference_router
from app.projects.router import router as projects_router
from app.queue import HintSender
from app.rate_limit import RateLimiter, RateLimitHeaders
from app.readiness import Readiness
from app.settings import Settings
from app.storage import make_storage
from learning.threads import compute_alone

__version__ = "0.1.0"


def make_services(settings: Settings) -> Services:
    storage = make_storage(settings)
    return Services(
        settings=settings,
        database=Database(settings),
        storage=storage,
        hints=HintSender(settings),
        inference=InferenceEngine(settings, storage),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    compute_alone()
    services: Services = app.state.services
    sweeper = Sweeper(services)
    sweeper.start()
    services.inference.warm_up()
    try:
        yield
    finally:
        sweeper.stop()
        app.state.rate_limiter.close()
        app.state.readiness.close()
        services.inference.close()
        services.hints.close()
        services.database.dispose()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application; without arguments it is configured by METAGRAFT_* variables."""
    settings = settings or Settings()
    app = FastAPI(title="Metagraft", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.services = make_services(settings)
    app.state.rate_limiter = RateLimiter(settings)
    app.state.connections = Connections(settings)
    app.state.readiness = Readiness(app.state.services)
    errors.install(app)
    app.add_middleware(BodyLimitMiddleware, settings=settings)
    app.add_middleware(RateLimitHeaders)
    hosts.install(app, settings)
    observability.install(app, settings)
    for router in (
        # Routes are tried in turn, so the busiest come first.
        predict_router,
        open_inference_router,
        catalogue_router,
        datasets_router,
        jobs_router,
        models_router,
        meta_learners_router,
        keys_router,
        projects_router,
    ):
        app.include_router(router)
    docs.install(app)
    openapi.install(app)
    return app
