"""Every bound of a request to the API, and why it is what it is; docs/api.md lists them.

They are checked before work is spent on what they bound, and each error names the parameter and the number. How long a
prompt may be is the model's matter (gateway/model/text_length.py); gateway/http/bodies/body.py counts a body's bytes.
"""

from __future__ import annotations

from typing import Final

# The structure of a body, counted in its bytes before it is parsed: each value costs a fraction of a microsecond to
# parse, one to validate and some to render, so that these keep any step of the event loop below 20 ms.
MAX_JSON_VALUES: Final = 1 << 17  # numbers and other values; a prompt may have so many token ids
MAX_JSON_STRINGS: Final = 1 << 15  # strings, keys, objects and arrays; 2048 messages have 14,000

# A chat. Agents that run for a day have some hundred messages.
MAX_MESSAGES: Final = 2048  # as OpenAI
MAX_CONTENT_PARTS: Final = 1024  # of one message
MAX_MESSAGE_TOOL_CALLS: Final = 256  # of one message
MAX_NAME_CHARACTERS: Final = 512  # a speaker's, a called function's, the id of a call

# The Responses API. Its items are stored: the number in an item's id has six digits.
MAX_INPUT_ITEMS: Final = 2048  # each may be a message
MAX_CONVERSATION_ITEMS: Final = 4096  # with those of earlier responses
MAX_ITEM_REFERENCES: Final = 256  # each may lead to another row of the database
MAX_INCLUDES: Final = 64
MAX_IDENTIFIER_CHARACTERS: Final = 512  # of a response's, a user's, a cache key

# What a client attaches to a chat or a response for itself. Responses are stored and returned with it.
MAX_METADATA: Final = 16  # entries, as OpenAI
MAX_METADATA_KEY: Final = 64  # characters, as OpenAI
MAX_METADATA_VALUE: Final = 512  # characters, as OpenAI

# Prompts without a template.
MAX_PROMPTS: Final = 128  # texts of one request: prompts times best_of or n
MAX_BEST_OF: Final = 20  # as OpenAI

# What bounds the choices: each is a session at a verifier.
MAX_CHOICES: Final = 8

# Searched for in the output at each token.
MAX_STOPS: Final = 16
MAX_STOP_CHARACTERS: Final = 1024

# Added to the logits of each token.
MAX_LOGIT_BIAS: Final = 1024

# Tools and formats: each tool is a rule of a grammar. The workers that compile have bounds of their own.
MAX_TOOLS: Final = 128  # as OpenAI
MAX_FUNCTION_NAME: Final = 64  # characters, as OpenAI
# A schema is walked several times in the event loop, in a few microseconds for each name and value in it; one whose
# objects have a thousand properties in all does not compile. OpenAI takes 5,000 properties, 1,000 texts and 10 levels.
MAX_SCHEMA_VALUES: Final = 4096  # entries of all objects and arrays in one schema
MAX_SCHEMA_DEPTH: Final = 128  # objects and arrays inside one another; a property that is an object takes two
MAX_SCHEMA_CHARACTERS: Final = 1 << 17  # of a schema that is given as a text, before it is parsed
MAX_FORMAT_CHOICES: Final = 1024  # of guided_choice
MAX_PATTERN_CHARACTERS: Final = 1 << 14  # of guided_regex
MAX_GRAMMAR_CHARACTERS: Final = 1 << 15  # of guided_grammar
