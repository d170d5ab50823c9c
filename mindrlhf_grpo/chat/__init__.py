"""Chat models that answer elsewhere: clients of servers, the texts they are asked with, and what of a reply can be used."""
