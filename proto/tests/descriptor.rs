//! The CRI as it is compiled against the table of its names and numbers, both ways.
//!
//! One side of each comparison is `runtime/v1/api.proto`, the other `runtime/v1/names.tsv`. A kubelet knows only
//! numbers and types: a slip in one of them would lose a field without any error.

use std::collections::BTreeMap;
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
};
use prost_types::{FieldOptions, ServiceDescriptorProto};

const PACKAGE: &str = "runtime.v1";
const TABLE: &str = include_str!("../runtime/v1/names.tsv");

/// Rows of the table with the line on which each stands, from 1.
fn rows(table: &str) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for (index, line) in table.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let earlier = rows.insert(line.to_owned(), index + 1);
        assert_eq!(
            earlier,
            None,
            "names.tsv:{}: stands on an earlier line too: {line}",
            index + 1
        );
    }
    rows
}

/// Where the table and the interface differ, a line each; empty when they are the same.
fn differences(table: &str, compiled: &[String]) -> Vec<String> {
    let mut rows = rows(table);
    let mut differences = Vec::new();
    for row in compiled {
        if rows.remove(row).is_none() {
            differences.push(format!("api.proto has what names.tsv has not: {row}"));
        }
    }
    differences.extend(
        rows.iter()
            .map(|(row, line)| format!("names.tsv:{line}: not in api.proto: {row}")),
    );
    differences
}

/// The compiled interface as rows of the table.
fn compile(folder: &Path, file: &str) -> Vec<String> {
    let set = protox::compile([file], [folder]).unwrap_or_else(|error| panic!("{error}"));
    let [file] = &set.file[..] else {
        panic!("{file} imports nothing");
    };
    assert_eq!(file.package(), PACKAGE);
    describe(file)
}

fn describe(file: &FileDescriptorProto) -> Vec<String> {
    let services = file.service.iter().flat_map(service);
    let messages = file
        .message_type
        .iter()
        .flat_map(|descriptor| message("", descriptor));
    let enums = file
        .enum_type
        .iter()
        .flat_map(|descriptor| values("", descriptor));
    services.chain(messages).chain(enums).collect()
}

fn service(service: &ServiceDescriptorProto) -> impl Iterator<Item = String> {
    service.method.iter().map(|method| {
        assert!(
            !method.client_streaming(),
            "no RPC of the CRI streams requests: {}",
            method.name()
        );
        let (input, output) = (local(method.input_type()), local(method.output_type()));
        let answers = if method.server_streaming() {
            "stream"
        } else {
            "unary"
        };
        format!(
            "rpc\t{}\t{}\t{input}\t{output}\t{answers}",
            service.name(),
            method.name()
        )
    })
}

fn message(outer: &str, descriptor: &DescriptorProto) -> Vec<String> {
    let name = format!("{outer}{}", descriptor.name());
    let inner = format!("{name}.");
    let mut rows: Vec<String> = descriptor
        .field
        .iter()
        .map(|row| field(&name, row, descriptor))
        .collect();
    if rows.is_empty() {
        rows.push(format!("field\t{name}"));
    }
    for nested in descriptor
        .nested_type
        .iter()
        .filter(|nested| !is_map_entry(nested))
    {
        rows.extend(message(&inner, nested));
    }
    rows.extend(
        descriptor
            .enum_type
            .iter()
            .flat_map(|nested| values(&inner, nested)),
    );
    rows
}

fn field(message: &str, field: &FieldDescriptorProto, descriptor: &DescriptorProto) -> String {
    let entry = descriptor.nested_type.iter().find(|nested| {
        is_map_entry(nested)
            && field
                .type_name()
                .strip_suffix(nested.name())
                .is_some_and(|rest| rest.ends_with('.'))
    });
    let (kind, label) = match entry {
        Some(entry) => (
            format!("{},{}", kind(&entry.field[0]), kind(&entry.field[1])),
            "map",
        ),
        None if field.label() == Label::Repeated => (kind(field), "repeated"),
        None => (kind(field), "single"),
    };
    let deprecated = if field.options.as_ref().is_some_and(FieldOptions::deprecated) {
        "\tdeprecated"
    } else {
        ""
    };
    format!(
        "field\t{message}\t{}\t{}\t{kind}\t{label}{deprecated}",
        field.name(),
        field.number()
    )
}

fn values(outer: &str, descriptor: &EnumDescriptorProto) -> impl Iterator<Item = String> {
    descriptor.value.iter().map(move |value| {
        format!(
            "enum\t{outer}{}\t{}\t{}",
            descriptor.name(),
            value.name(),
            value.number()
        )
    })
}

/// A field's type in the words of the proto language.
fn kind(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => local(field.type_name()).to_owned(),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    }
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message
        .options
        .as_ref()
        .is_some_and(|options| options.map_entry())
}

/// A full type name without the package.
fn local(name: &str) -> &str {
    name.strip_prefix(&format!(".{PACKAGE}.")).unwrap_or(name)
}

#[test]
fn the_compiled_cri_is_the_table() {
    let compiled = compile(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        "runtime/v1/api.proto",
    );
    let differences = differences(TABLE, &compiled);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_wrong_number_type_label_or_name_is_found_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let source = "syntax = \"proto3\"; package runtime.v1;
        message A { string name = 1; repeated int64 groups = 3; map<string, string> labels = 4; Kind kind = 5; }
        enum Kind { NONE = 0; }
        service S { rpc Watch(A) returns (stream A) {} }";
    std::fs::write(folder.path().join("api.proto"), source).unwrap();
    let compiled = compile(folder.path(), "api.proto");
    let right = "field\tA\tname\t1\tstring\tsingle\nfield\tA\tgroups\t3\tint64\trepeated\n\
                 field\tA\tlabels\t4\tstring,string\tmap\nfield\tA\tkind\t5\tKind\tsingle\n\
                 enum\tKind\tNONE\t0\nrpc\tS\tWatch\tA\tA\tstream";
    assert_eq!(differences(right, &compiled), [""; 0]);

    let slips = [
        ("\t1\t", "\t2\t"),
        ("int64", "int32"),
        ("string,string\tmap", "string\trepeated"),
        ("NONE", "ANY"),
    ];
    for (from, to) in slips.into_iter().chain([("stream", "unary")]) {
        let wrong = right.replace(from, to);
        let line = 1 + right.lines().position(|row| row.contains(from)).unwrap();
        let found = differences(&wrong, &compiled);
        assert_eq!(found.len(), 2, "{from} to {to}: {found:?}");
        assert!(
            found[1].starts_with(&format!("names.tsv:{line}: ")),
            "{found:?}"
        );
    }
}
