"""The API server in Ray Serve: each replica has an engine. See docs/serving.md."""

import os

from ray import serve


def build_app():
    """Return the ASGI application of a replica; called in it."""
    from glamm_jax.inference.chat import load
    from glamm_jax.serving.app import ServerOptions, make_app
    from glamm_jax.serving.engine import Engine
    from glamm_jax.serving.jobs import EngineOptions

    engine = Engine(load(os.environ["GLAMM_MODEL"]), EngineOptions(slots=32))
    engine.start()
    engine.ready.wait()
    return make_app(engine, ServerOptions(model="glamm"))


app = serve.deployment(
    serve.ingress(build_app)(),
    name="glamm",
    num_replicas=int(os.environ.get("GLAMM_REPLICAS", "1")),
    max_ongoing_requests=96,  # slots and queue of an engine
    ray_actor_options={"num_gpus": float(os.environ.get("GLAMM_GPUS", "1"))},
).bind()
