//! The table of rows: a name, a tab, settings.

use std::{collections::HashSet, fs, path::Path};

use anyhow::{Context, Result, ensure};

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Name and value, in the table's order.
    pub(crate) settings: Vec<(String, String)>,
}

pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows: Vec<Row> = lines.map(parse).collect::<Result<_>>()?;
    let names: HashSet<_> = rows.iter().map(|row| &row.name).collect();
    ensure!(names.len() == rows.len(), "two rows have one name");
    Ok(rows)
}

fn parse(line: &str) -> Result<Row> {
    let (name, settings) = line.split_once('\t').unwrap_or((line, ""));
    let pair = |setting: &str| {
        let (name, value) = setting
            .split_once('=')
            .with_context(|| format!("{setting} of {name} has no value"))?;
        Ok((name.to_owned(), value.replace('~', " ")))
    };
    Ok(Row {
        name: name.to_owned(),
        settings: settings
            .split_whitespace()
            .map(pair)
            .collect::<Result<_>>()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    #[test]
    fn there_are_60_rows_and_every_setting_is_known() {
        let rows = super::read(&crate::data("rows.tsv")).unwrap();
        assert_eq!(rows.len(), 60);
        let place = std::path::Path::new("/row");
        for row in &rows {
            crate::settings::Request::new(row, place, "/parent").unwrap();
        }
    }
}
