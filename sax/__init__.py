"""The Python API of SAX, under the name that programs import: see saxml.client.sax.

    import sax

    with sax.Model("/sax/test/lm") as model:
        print(model.LM().Generate("Q: ..."))

sax.aio has the same for asyncio.
"""

from sax import aio
from saxml.client.sax import (
    Admin,
    AdminOptions,
    Generated,
    Generation,
    GetACL,
    LanguageModel,
    List,
    ListAll,
    ListDetail,
    Model,
    ModelDetail,
    ModelOptions,
    ModelServerTypeStat,
    Options,
    Publish,
    SaxError,
    ScoredToken,
    SetACL,
    Stats,
    TokenLogProb,
    Unpublish,
    Update,
    WaitForReady,
)

__all__ = [
    "Admin",
    "AdminOptions",
    "Generated",
    "Generation",
    "GetACL",
    "LanguageModel",
    "List",
    "ListAll",
    "ListDetail",
    "Model",
    "ModelDetail",
    "ModelOptions",
    "ModelServerTypeStat",
    "Options",
    "Publish",
    "SaxError",
    "ScoredToken",
    "SetACL",
    "Stats",
    "TokenLogProb",
    "Unpublish",
    "Update",
    "WaitForReady",
    "aio",
]
