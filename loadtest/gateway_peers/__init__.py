"""What stands behind and beside the gateway in `bench gateway`: stubs that answer at no cost, and litellm's proxy.

Both stubs say the same tokens at the same pace, one through EdgeDraft's wire protocol and one through OpenAI's API.
"""
