//! Blanks comments and literals out of Rust source, so that a search for a word finds code only.
//!
//! Lines stay lines. Lifetimes are told from character literals by what follows two characters later.

/// `source` with the same lines, and spaces for every byte inside a comment, string or character.
pub(super) fn mask(source: &str) -> String {
    let mut rest = source;
    let mut masked = String::with_capacity(source.len());
    while let Some(first) = rest.chars().next() {
        let hidden = hidden_length(rest, masked.chars().next_back());
        if hidden == 0 {
            masked.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (blank, after) = rest.split_at(hidden);
            masked.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    masked
}

/// The length of the comment or literal that `rest` begins with; 0 when it begins with code.
fn hidden_length(rest: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment(rest)
    } else if rest.starts_with('"') {
        quoted(rest, '"')
    } else if rest.starts_with('\'') {
        character(rest)
    } else if !in_word {
        raw_string(rest)
    } else {
        0
    }
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

fn character(rest: &str) -> usize {
    let mut chars = rest.chars().skip(1);
    let is_literal = chars.next() == Some('\\') || chars.next() == Some('\'');
    if is_literal { quoted(rest, '\'') } else { 0 }
}

fn raw_string(rest: &str) -> usize {
    let Some(after) = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')) else {
        return 0;
    };
    let hashes = &after[..after.len() - after.trim_start_matches('#').len()];
    let Some(body) = after[hashes.len()..].strip_prefix('"') else {
        return 0;
    };
    let end = format!("\"{hashes}");
    let start = rest.len() - body.len();
    body.find(&end)
        .map_or(rest.len(), |at| start + at + end.len())
}

#[test]
fn comments_and_literals_become_blank() {
    for (source, want) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"a("b\"c")d"#, "a(      )d"),
        (r##"a(r#"b"c"#)d"##, "a(        )d"),
        ("x(b\"y\")", "x(b   )"),
        (r"['a', '\'', b'c']", "[   ,     , b   ]"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("var\"x\"", "var   "),
        ("\"a\nb\"c", "  \n  c"),
    ] {
        assert_eq!(mask(source), want, "source: {source}");
    }
}
