"""The server as a Ray Serve deployment: `pip install 'ray[serve]'`, then `serve run examples.serve.ray_serve:app`."""

from ray import serve

from decoding.serve import create_app


def build():
    """Return the application; each replica makes its own, and loads the models there."""
    return create_app({"shakespeare": "shakespeare"})


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1})
@serve.ingress(build)
class Decoding:
    """A replica."""


app = Decoding.bind()
