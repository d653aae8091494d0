//! JSON as the tools read it that write and scan images: Go's `encoding/json`.
//!
//! Of a key that comes twice the last one counts, objects are merged, and so are the elements of lists, one by one; keys of
//! known fields are the same in capitals; `null` is an empty list or no object, and leaves text and numbers as they are. Another
//! reading than theirs would run another image than the one that a scanner saw. The digest, over bytes, knows none of this.
//!
//! Rule: package encoding/json of Go 1.26, `Unmarshal`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// Values in one document. Real ones have some thousands; each takes memory.
const MAX_VALUES: usize = 200_000;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Value {
    #[default]
    Null,
    Bool,
    Integer(i128),
    Fraction,
    Text(String),
    List(Vec<Value>),
    /// Entries in the document's order, keys as often as they come.
    Object(Vec<(String, Value)>),
}

/// Fault of a document. Shape: `layers[3].size: it is no whole number`.
pub(crate) type Fault = String;

pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    // Go, too, takes what is no UTF-8 for U+FFFD.
    let text = String::from_utf8_lossy(bytes);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let mut left = MAX_VALUES;
    let value = Seed(&mut left).deserialize(&mut reader);
    let value = value.map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

impl Value {
    /// The top of a document, or an element of a list.
    ///
    /// # Errors
    /// If it is another value.
    pub(crate) fn object(&self) -> Result<Object<'_>, Fault> {
        match self {
            Self::Object(entries) => Ok(Object(entries.iter().collect())),
            Self::Null => Ok(Object::default()),
            other => Err(format!("it is {other}, not an object")),
        }
    }

    /// # Errors
    /// If it is another value.
    pub(crate) fn list(&self) -> Result<&[Self], Fault> {
        match self {
            Self::List(list) => Ok(list),
            Self::Null => Ok(&[]),
            other => Err(format!("it is {other}, not a list")),
        }
    }

    fn text(&self) -> Result<String, Fault> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Null => Ok(String::new()),
            other => Err(format!("it is {other}, not a text")),
        }
    }

    /// Value that Go has in one variable after it has read `self` and then `later` into it.
    fn merge(self, later: Self) -> Self {
        match (self, later) {
            (Self::Object(mut entries), Self::Object(more)) => {
                entries.extend(more);
                Self::Object(entries)
            }
            (Self::List(old), Self::List(new)) => {
                let mut old = old.into_iter();
                let merged = new.into_iter().map(|new| match old.next() {
                    Some(old) => old.merge(new),
                    None => new,
                });
                Self::List(merged.collect())
            }
            (
                old @ (Self::Text(_) | Self::Integer(_) | Self::Fraction | Self::Bool),
                Self::Null,
            ) => old,
            (_, later) => later,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Integer(_) | Self::Fraction => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        })
    }
}

/// The fields of an object.
#[derive(Debug, Default)]
pub(crate) struct Object<'a>(Vec<&'a (String, Value)>);

impl Object<'_> {
    /// Everything that is said of a field, as one value.
    fn get(&self, name: &str) -> Value {
        let said = self.0.iter().filter(|(key, _)| is_same(key, name));
        said.fold(Value::Null, |found, (_, value)| found.merge(value.clone()))
    }

    /// True where the field has a value other than `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name) != Value::Null
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let value = self.get(name);
        read(&value).map_err(|fault| within(name, &fault))
    }

    /// Empty where there is none.
    pub(crate) fn text(&self, name: &str) -> Result<String, Fault> {
        self.read(name, Value::text)
    }

    /// `None` where there is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Fault> {
        self.read(name, |value| match value {
            Value::Null => Ok(None),
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) if i64::try_from(number).is_ok() => Ok(Some(number)),
                _ => Err(format!("{number} is out of range")),
            },
            other => Err(format!("it is {other}, not a whole number")),
        })
    }

    pub(crate) fn list<T>(
        &self,
        name: &str,
        element: impl Fn(&Value) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        self.read(name, |value| {
            let list = value.list()?.iter().enumerate();
            list.map(|(at, value)| {
                element(value).map_err(|fault| within(&format!("[{at}]"), &fault))
            })
            .collect()
        })
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Fault> {
        self.list(name, Value::text)
    }

    /// Names to texts. Names are what they are, capitals too.
    pub(crate) fn map(&self, name: &str) -> Result<BTreeMap<String, String>, Fault> {
        self.read(name, |value| {
            let entries = value.object()?;
            let entry = |(key, value): &(String, Value)| {
                let text = value.text().map_err(|fault| within(key, &fault))?;
                Ok((key.clone(), text))
            };
            entries.0.into_iter().map(entry).collect()
        })
    }

    /// The names of a set, which is written as an object of anything.
    pub(crate) fn set(&self, name: &str) -> Result<Vec<String>, Fault> {
        self.read(name, |value| {
            let entries = value.object()?.0.into_iter();
            let names: BTreeMap<_, _> = entries.map(|(key, _)| (key.clone(), ())).collect();
            Ok(names.into_keys().collect())
        })
    }

    /// Empty where there is none.
    pub(crate) fn object<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Object<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let said = self
            .0
            .iter()
            .filter(|(key, value)| is_same(key, name) && *value != Value::Null);
        let found = said.fold(Value::Null, |found, (_, value)| found.merge(value.clone()));
        let object = found.object().and_then(|object| read(&object));
        object.map_err(|fault| within(name, &fault))
    }

    /// `None` where there is none, or `null` comes last.
    pub(crate) fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(&Object<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        match self.has(name) {
            true => self.read(name, |value| read(&value.object()?)).map(Some),
            false => Ok(None),
        }
    }
}

/// Go's folding of names: capitals, and the two signs that Unicode takes for `k` and `s`.
fn is_same(key: &str, name: &str) -> bool {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    };
    key == name || key.chars().map(fold).eq(name.chars().map(fold))
}

fn within(name: &str, fault: &str) -> Fault {
    match fault.starts_with('[') || fault.contains(": ") {
        true if fault.starts_with('[') => format!("{name}{fault}"),
        true => format!("{name}.{fault}"),
        false => format!("{name}: {fault}"),
    }
}

/// Counts down as values come.
struct Seed<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        let left = self.0.checked_sub(1);
        *self.0 = left.ok_or_else(|| {
            de::Error::custom(format_args!("it has more than {MAX_VALUES} values"))
        })?;
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Fraction)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Seed(&mut *self.0))? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            entries.push((key, map.next_value_seed(Seed(&mut *self.0))?));
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(text: &str, read: impl FnOnce(&Object<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        read(&parse(text.as_bytes())?.object()?)
    }

    #[test]
    fn the_last_of_a_key_counts_whatever_its_capitals() {
        let text = |text: &str| with(text, |top| top.text("mediaType"));
        assert_eq!(text(r#"{"mediaType":"a","mediaType":"b"}"#).unwrap(), "b");
        assert_eq!(text(r#"{"mediaType":"a","MEDIATYPE":"b"}"#).unwrap(), "b");
        assert_eq!(text(r#"{"mediatype":"b","mediaType":"a"}"#).unwrap(), "a");
        assert_eq!(text(r#"{"mediaType":"a","mediaType":null}"#).unwrap(), "a");
        assert_eq!(text(r#"{"media_type":"a"}"#).unwrap(), "");
        let kelvin = "{\"to\u{212a}en\u{17f}\":\"k\"}";
        assert_eq!(with(kelvin, |top| top.text("tokens")).unwrap(), "k");
    }

    #[test]
    fn objects_and_elements_are_merged() {
        let texts = |text: &str| {
            with(text, |top| {
                top.object("config", |config| {
                    Ok((config.texts("Env")?, config.text("User")?))
                })
            })
        };
        let list = |env: &[&str], user: &str| {
            let env = env
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>();
            (env, user.to_owned())
        };
        let two = r#"{"config":{"Env":["A","B"],"User":"u"},"Config":{"env":["C"]}}"#;
        assert_eq!(texts(two).unwrap(), list(&["C"], "u"));
        let none = r#"{"config":{"Env":["A"],"User":"u"},"config":{"Env":null,"User":null},"config":null}"#;
        assert_eq!(texts(none).unwrap(), list(&[], "u"));
        let kept = r#"{"config":{"Env":["A","B"],"Env":[null,"C"]}}"#;
        assert_eq!(texts(kept).unwrap(), list(&["A", "C"], ""));
        let sizes = r#"{"layers":[{"size":1,"digest":"a"}],"layers":[{"digest":"b"}]}"#;
        let layers = with(sizes, |top| {
            top.list("layers", |layer| {
                let layer = layer.object()?;
                Ok((layer.number("size")?, layer.text("digest")?))
            })
        });
        assert_eq!(layers.unwrap(), [(Some(1), "b".to_owned())]);
    }

    #[test]
    fn null_is_nothing_and_another_type_is_named() {
        let nulls = r#"{"a":null,"m":{"x":null,"X":"1"},"s":{"v":null,"v":{}}}"#;
        assert_eq!(with(nulls, |top| top.texts("a")).unwrap(), [""; 0]);
        assert_eq!(with(nulls, |top| top.number("a")).unwrap(), None);
        assert!(!with(nulls, |top| Ok(top.has("a"))).unwrap());
        assert_eq!(with(nulls, |top| top.map("m")).unwrap()["x"], "");
        assert_eq!(with(nulls, |top| top.set("s")).unwrap(), ["v"]);
        let wrong = |text: &str| {
            with(text, |top| {
                top.list("layers", |layer| layer.object()?.number("size"))
            })
            .unwrap_err()
        };
        assert_eq!(
            wrong(r#"{"layers":5}"#),
            "layers: it is a number, not a list"
        );
        assert_eq!(
            wrong(r#"{"layers":[{},{"size":"5"}]}"#),
            "layers[1].size: it is a text, not a whole number"
        );
        assert_eq!(
            wrong(r#"{"layers":[{"size":1.0}]}"#),
            "layers[0].size: it is a number, not a whole number"
        );
        assert_eq!(
            wrong(r#"{"layers":[{"size":-1}]}"#),
            "layers[0].size: -1 is out of range"
        );
        assert_eq!(wrong("[]"), "it is a list, not an object");
    }

    #[test]
    fn what_is_too_much_or_no_json_is_refused() {
        assert!(parse(b"{} {}").is_err());
        assert!(parse("[".repeat(1000).as_bytes()).is_err());
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(
            parse(many.as_bytes())
                .unwrap_err()
                .contains("200000 values")
        );
        assert_eq!(
            parse(b"\"a\xff\"").unwrap(),
            Value::Text("a\u{fffd}".to_owned())
        );
    }
}
