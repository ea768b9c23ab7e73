// SPDX-License-Identifier: GPL-2.0-only
//! What `modinfo worldswitch.ko` says: read from the module's section `.modinfo`, as modinfo does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use crate::build;
use crate::layout::Layout;
use crate::setup::kernel::Choice;

/// Fields that each module of ours has, and what is in them.
const FIELDS: [(&str, &str); 8] = [
    ("description", "KVM"),
    ("license", "GPL"),
    ("author", "Worldswitch"),
    ("version", env!("CARGO_PKG_VERSION")),
    ("cores", "Cortex-A7"),
    ("needs", "GICv2"),
    ("alias", "devname:kvm"),
    ("vermagic", "ARMv7"),
];

/// Whether the module for `choice` says of itself what it should, and of each parameter what it does, as does the documentation.
pub fn check(layout: &Layout, choice: &Choice) -> Result<()> {
    let module = build::build(layout, choice)?.module;
    let fields = fields(&fs::read(&module)?)?;
    for (name, part) in FIELDS {
        if !fields.iter().any(|(found, value)| found == name && value.contains(part)) {
            bail!("no field {name} has {part:?} in it: {fields:?}");
        }
    }
    let described: BTreeSet<&str> = fields
        .iter()
        .filter(|(name, _)| name == "parm")
        .filter_map(|(_, value)| value.split_once(':'))
        .filter(|(_, text)| !text.is_empty())
        .map(|(parameter, _)| parameter)
        .collect();
    let documented = fs::read_to_string(layout.root.join("docs/testing.md"))?;
    let documented = documented_parameters(&documented);
    for parameter in parameters(&layout.root.join("linux/shim"))? {
        if !described.contains(parameter.as_str()) {
            bail!("modinfo does not say what {parameter} is");
        }
        if !documented.contains(parameter.as_str()) {
            bail!("docs/testing.md does not say what the parameter {parameter} is");
        }
    }
    Ok(())
}

/// The fields of a module: name and value.
fn fields(module: &[u8]) -> Result<Vec<(String, String)>> {
    let file = object::File::parse(module).context("the module is no object file")?;
    let section = file.section_by_name(".modinfo").context("the module has no .modinfo")?;
    let text = String::from_utf8_lossy(section.data()?).into_owned();
    Ok(text.split('\0').filter_map(|field| field.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
}

/// The parameters that the shim defines.
fn parameters(shim: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(shim)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            found.extend(parameters_in(&fs::read_to_string(&path)?));
        }
    }
    if found.is_empty() {
        bail!("{}: no parameters found", shim.display());
    }
    Ok(found)
}

fn parameters_in(source: &str) -> Vec<String> {
    let calls = source
        .lines()
        .filter_map(|line| line.strip_prefix("module_param_cb(").or_else(|| line.strip_prefix("module_param(")));
    calls.filter_map(|arguments| Some(arguments.split_once(',')?.0.to_owned())).collect()
}

/// Those in the first column of the table that begins with `parameter`.
fn documented_parameters(text: &str) -> BTreeSet<&str> {
    let table =
        text.lines().skip_while(|line| !line.starts_with("| parameter |")).take_while(|line| line.starts_with('|'));
    table.skip(2).filter_map(|line| line.split('|').nth(1)).flat_map(|cell| cell.split(',')).map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_in_sources_and_documents() {
        let source = "module_param(no_vfp, bool, 0444);\nstatic int x;\nmodule_param_cb(check_vmids, &operations, NULL, 0600);\n";
        assert_eq!(parameters_in(source), ["no_vfp", "check_vmids"]);
        let text = "| a | b |\n|---|---|\n| c | d |\n\n| parameter | what |\n|---|---|\n| one | x |\n| two, three | y |\n\nEnd\n";
        assert_eq!(documented_parameters(text).into_iter().collect::<Vec<_>>(), ["one", "three", "two"]);
    }
}
