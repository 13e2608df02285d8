//! The words and signs of a Rust file, without its comments and literals.

/// A word, or a sign.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    /// The first line is 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    /// Whether it is a name, a keyword or a number.
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(is_part_of_word)
    }
}

/// Takes a file apart.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut found, mut rest, mut line) = (Vec::new(), text, 1);
    while !rest.is_empty() {
        let (length, is_token) = next(rest);
        let (text, behind) = rest.split_at(length);
        if is_token {
            found.push(Token { text, line });
        }
        line += text.matches('\n').count();
        rest = behind;
    }
    found
}

/// How long that is with which the text begins, and whether it is a token.
fn next(text: &str) -> (usize, bool) {
    let first = text.chars().next().map_or(0, char::len_utf8);
    let word = text.find(|character| !is_part_of_word(character)).unwrap_or(text.len());
    let (prefix, behind) = text.split_at(word);
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    if text.starts_with("//") {
        (text.find('\n').unwrap_or(text.len()), false)
    } else if text.starts_with("/*") {
        (comment(text), false)
    } else if prefix.ends_with('r') && prefix.len() < 3 && behind[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = word + hashes + 1;
        (text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()), false)
    } else if matches!(prefix, "" | "b" | "c") && behind.starts_with('"') {
        (word + quoted(behind, '"'), false)
    } else if matches!(prefix, "" | "b") && is_character(behind) {
        (word + quoted(behind, '\''), false)
    } else if word > 0 {
        (word, true)
    } else if text.starts_with("::") {
        (2, true)
    } else {
        (first, !text.starts_with(char::is_whitespace))
    }
}

fn is_part_of_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Whether a character in quotes begins here, and not a lifetime.
fn is_character(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next() == Some('\'')
        && (characters.next() == Some('\\') || characters.next() == Some('\''))
}

/// How long what is in quotes is, these included.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().skip(1).find(|(_, character)| {
        let ends = *character == quote && !is_escaped;
        is_escaped = *character == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// How long a comment is, with those within it.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

#[test]
fn comments_and_literals_are_left_out() {
    let text = r##"a /* b /* c */ d */ e // f
        "g \" h" b"i" r#"j " k"# 'l' '\'' b'm' 'n: o::p /// q
        r"s""##;
    let words: Vec<_> = tokens(text).iter().map(|token| (token.text, token.line)).collect();
    let expected =
        [("a", 1), ("e", 1), ("'", 2), ("n", 2), (":", 2), ("o", 2), ("::", 2), ("p", 2)];
    assert_eq!(words, expected);
}
