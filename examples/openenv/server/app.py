"""The server of `CodeMath-v0` for OpenEnv's hub.

The variable CODEMATH has the arguments of the environment as JSON:

CODEMATH='{"problems": "products"}' python -m server.app
"""

import json
import os

from cir_env.adapters.openenv import make_app

app = make_app(**json.loads(os.environ.get("CODEMATH", "{}")))


def main() -> None:
    """Serve on port 8000."""
    import uvicorn

    uvicorn.run(app, host="0.0.0.0", port=8000)


if __name__ == "__main__":
    main()
