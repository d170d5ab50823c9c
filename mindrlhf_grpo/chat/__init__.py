"""Chat models on servers: clients with one method ``complete``, and the split of replies into thought and answer.

To add a service, write a class with the members of ``chat_server.ChatModel``.
"""
