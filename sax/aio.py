"""The Python API of SAX for asyncio: see saxml.client.sax_aio."""

from saxml.client.sax_aio import (
    Admin,
    GetACL,
    LanguageModel,
    List,
    ListAll,
    ListDetail,
    Model,
    Publish,
    SetACL,
    Stats,
    Unpublish,
    Update,
    WaitForReady,
)

__all__ = [
    "Admin",
    "GetACL",
    "LanguageModel",
    "List",
    "ListAll",
    "ListDetail",
    "Model",
    "Publish",
    "SetACL",
    "Stats",
    "Unpublish",
    "Update",
    "WaitForReady",
]
