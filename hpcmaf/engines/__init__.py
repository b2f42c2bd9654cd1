"""Requests in, completions out: what generates text, behind one interface."""

from hpcmaf.engines.base import Completion, Engine, Message, Request, Sampling, ServedModels

__all__ = ["Completion", "Engine", "Message", "Request", "Sampling", "ServedModels"]
