"""The preference pairs: from glossary entries to questions with a better and a worse answer."""
