"""An HTTP server over `Engine`: OpenAI's completions, the Open Inference Protocol, metrics, and a page to look at.

Needs Starlette, uvicorn and prometheus-client: ``pip install 'rnn-decoding[serve]'``. ``decoding serve MODEL`` starts it;
`create_app` makes the ASGI application for another server.
"""

from decoding.errors import OptionError

try:
    import prometheus_client  # noqa: F401 - imported here, so that one place says that it is missing
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise OptionError(f"decoding.serve needs the package {error.name}; pip install 'rnn-decoding[serve]'") from error

from decoding.serve.app import create_app
from decoding.serve.gate import Limits

__all__ = ["Limits", "create_app"]
