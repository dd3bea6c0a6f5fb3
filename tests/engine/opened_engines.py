"""Every engine opened for a bundle, those for cards through their stand-ins."""

from engine.backends import choose
from engine.backends.base import GraphBackend
from engine.bundle import Bundle

STAND_INS = {"tensorrt": "card", "inductor": "processor"}
"""By engine that runs plans, the fixture that lets it run without a card."""


def opened(bundle: Bundle, engine: str) -> GraphBackend:
    """The back end `engine` for a bundle; a plan for four tracks is built where it needs one."""
    if engine in STAND_INS:
        from engine.build import Builder, Progress

        builder = Builder(bundle, engine=engine)
        if not builder.file("fp32", 4).exists():
            builder.build("fp32", 4, lambda line: None, Progress())
    backend = choose(bundle, engine).backend
    assert hasattr(backend, "encode")
    assert hasattr(backend, "answers")
    found: GraphBackend = backend
    return found
