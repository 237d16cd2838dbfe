"""Other faces of the same deciders and simulators: the chat endpoint."""
