//! Checks that the files of src/ have no import cycles.
//!
//! A file imports the files that its `use` declarations and qualified paths refer to. `pub use` is
//! a re-export and not an import: a path through it refers to the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::{files_under, root, without_tests};

/// The path of a module from the root of the crate.
type Module = Vec<String>;

/// The cycles that exist, each with all its files. Remove a cycle when it no longer exists. Do not
/// add one.
const KNOWN_CYCLES: [&[&str]; 2] =
    [&["cli", "cli::completions", "cli::man"], &["metrics", "metrics::gauges"]];

struct Crate {
    /// The code of each module that has its own file, without comments, string literals and tests.
    code: BTreeMap<Module, String>,
    /// The re-exports of each module: name → path from the root of the crate.
    exports: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl Crate {
    fn read() -> Self {
        let source = root().join("src");
        let mut code = BTreeMap::new();
        for file in files_under(&source, "rs") {
            let inside = file.strip_prefix(&source).unwrap().with_extension("");
            let mut module: Module = inside.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            if matches!(module.last().unwrap().as_str(), "mod" | "lib") {
                module.pop();
            }
            if module != ["main"] && module.last().is_none_or(|name| name != "tests") {
                code.insert(
                    module,
                    strip_comments_and_strings(without_tests(&fs::read_to_string(&file).unwrap())),
                );
            }
        }
        let mut read = Self { code, exports: BTreeMap::new() };
        for (module, code) in &read.code {
            let mut exports = BTreeMap::new();
            for declaration in declarations(code).filter(|declaration| declaration.public) {
                for (path, name) in use_tree_paths(&declaration.tree) {
                    if let Some(path) = read.absolute(module, &path) {
                        exports.insert(name, path);
                    }
                }
            }
            read.exports.insert(module.clone(), exports);
        }
        read
    }

    /// Returns the path from the root of the crate of a path in a module. Returns `None` if it
    /// refers to another crate or is local.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let mut base = module.clone();
        let mut rest = path;
        match path[0].as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" | "super" => {
                while let Some((first, others)) = rest.split_first()
                    && matches!(first.as_str(), "self" | "super")
                {
                    if first == "super" {
                        base.pop();
                    }
                    rest = others;
                }
            }
            child => {
                base.push(child.to_owned());
                if !self.code.contains_key(&base) {
                    return None;
                }
                rest = &path[1..];
            }
        }
        Some(base.into_iter().chain(rest.iter().cloned()).collect())
    }

    /// Returns the module whose file contains the item at a path from the root of the crate.
    fn file_of(&self, path: &[String]) -> Module {
        let mut module = Module::new();
        for (at, name) in path.iter().enumerate() {
            module.push(name.clone());
            if self.code.contains_key(&module) {
                continue;
            }
            module.pop();
            return match self.exports[&module].get(name) {
                Some(target) => self.file_of(&[target, &path[at + 1..]].concat()),
                None => module,
            };
        }
        module
    }

    /// Returns the modules whose files a module's file imports.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let code = &self.code[module];
        let mut paths: Vec<Module> = Vec::new();
        let mut body = code.clone();
        for declaration in declarations(code) {
            body = body.replace(&declaration.text, "");
            if !declaration.public {
                paths.extend(use_tree_paths(&declaration.tree).into_iter().map(|(path, _)| path));
            }
        }
        paths.extend(qualified_paths(&body));
        let targets =
            paths.iter().filter_map(|path| self.absolute(module, path)).map(|path| self.file_of(&path));
        targets.filter(|target| target != module).collect()
    }
}

/// Removes line comments and the contents of string literals.
fn strip_comments_and_strings(code: &str) -> String {
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n").replace("\\\\", "").replace("\\\"", "");
    code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// A `use` declaration.
struct Declaration {
    text: String,
    tree: String,
    public: bool,
}

fn declarations(code: &str) -> impl Iterator<Item = Declaration> {
    code.split(';').filter_map(|statement| {
        let at = statement.rfind("use ").filter(|at| {
            let before = statement[..*at].chars().next_back();
            before.is_none_or(char::is_whitespace)
        })?;
        let line = &statement[statement[..at].rfind('\n').map_or(0, |end| end + 1)..at];
        let tree = statement[at + 4..].trim().to_owned();
        let public = line.trim_start().starts_with("pub");
        let is_declaration = line.trim().is_empty() || public;
        is_declaration.then(|| Declaration { text: statement[at..].to_owned(), tree, public })
    })
}

/// Returns the paths of a `use` tree, each with the name that it binds.
fn use_tree_paths(tree: &str) -> Vec<(Module, String)> {
    let tree = tree.trim();
    let names = |path: &str| -> Module {
        path.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    };
    if let Some((prefix, inner)) = tree.split_once('{') {
        let (prefix, inner) = (names(prefix), inner.trim_end().trim_end_matches('}'));
        let inner = if tree.matches('{').count() == 1 {
            inner
        } else {
            &tree[tree.find('{').unwrap() + 1..tree.rfind('}').unwrap()]
        };
        let below = split_list(inner).into_iter().flat_map(use_tree_paths);
        return below.map(|(path, name)| ([prefix.clone(), path].concat(), name)).collect();
    }
    let (path, renamed) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name)));
    let mut path = names(path);
    if path.len() > 1 && path.last().is_some_and(|name| name == "self" || name == "*") {
        path.pop();
    }
    let Some(last) = path.last().cloned() else { return Vec::new() };
    vec![(path, renamed.map_or(last, |name| name.trim().to_owned()))]
}

/// Splits a list at the commas that are outside braces.
fn split_list(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, sign) in list.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts.into_iter().filter(|part| !part.trim().is_empty()).collect()
}

/// Returns the paths in code that have at least two segments.
fn qualified_paths(code: &str) -> Vec<Module> {
    let is_part = |sign: char| sign.is_alphanumeric() || sign == '_' || sign == ':';
    let words = code.split(|sign| !is_part(sign));
    let paths = words.map(|word| word.trim_matches(':')).filter(|word| word.contains("::"));
    paths.map(|word| word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()).collect()
}

/// Returns the import cycles, each with all its files.
fn import_cycles() -> Vec<BTreeSet<String>> {
    let source = Crate::read();
    let imports: BTreeMap<&Module, BTreeSet<Module>> =
        source.code.keys().map(|module| (module, source.imports(module))).collect();
    let reached = |from: &Module| -> BTreeSet<Module> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = open.pop() {
            open.extend(imports[&module].iter().filter(|next| reached.insert((*next).clone())).cloned());
        }
        reached
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> =
        source.code.keys().map(|module| (module, reached(module))).collect();
    let cycle = |of: &Module| -> BTreeSet<String> {
        let both = reached[of].iter().filter(|other| reached[other].contains(of));
        both.map(|module| module.join("::")).collect()
    };
    let import_cycles: BTreeSet<BTreeSet<String>> = source.code.keys().map(cycle).collect();
    import_cycles.into_iter().filter(|cycle| !cycle.is_empty()).collect()
}

#[test]
fn the_files_have_no_import_cycles() {
    let known = KNOWN_CYCLES.map(|cycle| cycle.iter().copied().map(str::to_owned).collect::<BTreeSet<_>>());
    let import_cycles = import_cycles();
    for cycle in &import_cycles {
        assert!(known.iter().any(|known| cycle.is_subset(known)), "import cycle: {cycle:?}");
    }
    for known in &known {
        assert!(
            import_cycles.iter().any(|cycle| cycle.is_subset(known)),
            "this cycle no longer exists, remove it from KNOWN_CYCLES: {known:?}"
        );
    }
}

#[test]
fn an_import_cycle_through_a_re_export_is_found() {
    let code = [
        ("", "pub mod a; pub mod b;"),
        ("a", "pub mod inner; pub use inner::X; use crate::b::Y;"),
        ("a::inner", "pub struct X;"),
        ("b", "use crate::{a::{self, X}, c}; fn f() { super::a::g() }"),
    ];
    let module = |path: &str| -> Module {
        path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let mut source = Crate {
        code: code.iter().map(|(path, code)| (module(path), (*code).to_owned())).collect(),
        exports: code.iter().map(|(path, _)| (module(path), BTreeMap::new())).collect(),
    };
    source.exports.insert(module("a"), BTreeMap::from([("X".to_owned(), module("a::inner::X"))]));
    assert_eq!(source.imports(&module("a")), BTreeSet::from([module("b")]));
    assert_eq!(source.imports(&module("b")), BTreeSet::from([module(""), module("a"), module("a::inner")]));
}
