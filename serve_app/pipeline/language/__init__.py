"""The English of captions: words (`lexicon`), statements (`parsing`), what says the same (`comparing`), sentences
(`writing`), and what captioners write although nobody sees it (`noise`)."""
