"""A TF Serving stand-in that needs nothing but Python: same API, same answers, same errors.

It executes SavedModels with the runtime that TF Serving uses, through a session, and is measured
against recorded answers of the real server. Import `LocalServer` from
`serving.local_server.server`.
"""
