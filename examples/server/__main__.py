"""python -m examples.server [--port 8000] [--slots 32] [--batch 8] [--most-waiting 64] [--policy continuous]"""

from __future__ import annotations

import argparse

import uvicorn

from .app import create_app
from .worker import POLICIES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--slots", type=int, default=32, help="samples that run at a time")
    parser.add_argument("--batch", type=int, default=8, help="samples in a call of the model; 0 for any")
    parser.add_argument("--most-waiting", type=int, default=64, help="requests that wait before others are refused")
    parser.add_argument("--policy", choices=POLICIES, default="continuous")
    args = parser.parse_args()
    app = create_app(slots=args.slots, batch=args.batch, most_waiting=args.most_waiting, policy=args.policy)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
