"""A model shown at work: rows searched by samples of any of its modalities, and classified by one's own words.

options   which rows, and how they are opened
index     their embeddings, and what lies near to what
engine    questions and answers, without a page: what a sample finds, what a row is near to, which word fits
uploads   files and words that somebody gives, as what the model's preprocessors read
cards     an answer as HTML, by Jinja2 with escaping
page      the questions as a page of Gradio (extra `demo`)
serving   the page on this machine, without a call to any other
space     the page as a Space of the Hub
"""
