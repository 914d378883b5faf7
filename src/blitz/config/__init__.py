"""Config schema, resolvers and checks. Nothing here imports torch or Lightning at module level."""
