//! No circle of imports between the files of src/.
//!
//! A file imports the files that its `use` declarations and its qualified paths lead to. `pub use` re-exports an item and
//! is no import of its own: a path through it leads to the file that the item comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::{files_under, root, without_tests};

/// A module by the names on its path from the root of the crate.
type Module = Vec<String>;

/// Circles that are not mended yet: all their files. Remove a line once its circle is gone, and add none.
const KNOWN: [&[&str]; 2] = [&["cli", "cli::completions", "cli::man"], &["metrics", "metrics::gauges"]];

struct Crate {
    /// The code of each module that has a file, without comments, texts and tests.
    code: BTreeMap<Module, String>,
    /// What each module re-exports: name → path from the root of the crate.
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
                code.insert(module, bare(without_tests(&fs::read_to_string(&file).unwrap())));
            }
        }
        let mut read = Self { code, exports: BTreeMap::new() };
        for (module, code) in &read.code {
            let mut exports = BTreeMap::new();
            for declaration in declarations(code).filter(|declaration| declaration.public) {
                for (path, name) in leaves(&declaration.tree) {
                    if let Some(path) = read.absolute(module, &path) {
                        exports.insert(name, path);
                    }
                }
            }
            read.exports.insert(module.clone(), exports);
        }
        read
    }

    /// The path from the root of the crate of what a module names like this; `None` if that is another crate's, or local.
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

    /// The module whose file a path from the root of the crate leads to.
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

    /// The files that the file of a module imports.
    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let code = &self.code[module];
        let mut paths: Vec<Module> = Vec::new();
        let mut body = code.clone();
        for declaration in declarations(code) {
            body = body.replace(&declaration.text, "");
            if !declaration.public {
                paths.extend(leaves(&declaration.tree).into_iter().map(|(path, _)| path));
            }
        }
        paths.extend(qualified(&body));
        let targets =
            paths.iter().filter_map(|path| self.absolute(module, path)).map(|path| self.file_of(&path));
        targets.filter(|target| target != module).collect()
    }
}

/// Code without line comments and without what is in string literals.
fn bare(code: &str) -> String {
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
        let known = line.trim().is_empty() || public;
        known.then(|| Declaration { text: statement[at..].to_owned(), tree, public })
    })
}

/// The paths of a use tree, each with the name that it gets.
fn leaves(tree: &str) -> Vec<(Module, String)> {
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
        let below = parts(inner).into_iter().flat_map(leaves);
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

/// The parts of a list whose commas are not inside braces.
fn parts(list: &str) -> Vec<&str> {
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

/// The paths of two names or more in code.
fn qualified(code: &str) -> Vec<Module> {
    let is_part = |sign: char| sign.is_alphanumeric() || sign == '_' || sign == ':';
    let words = code.split(|sign| !is_part(sign));
    let paths = words.map(|word| word.trim_matches(':')).filter(|word| word.contains("::"));
    paths.map(|word| word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()).collect()
}

/// The circles, each with all its files.
fn circles() -> Vec<BTreeSet<String>> {
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
    let circle = |of: &Module| -> BTreeSet<String> {
        let both = reached[of].iter().filter(|other| reached[other].contains(of));
        both.map(|module| module.join("::")).collect()
    };
    let circles: BTreeSet<BTreeSet<String>> = source.code.keys().map(circle).collect();
    circles.into_iter().filter(|circle| !circle.is_empty()).collect()
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let known = KNOWN.map(|circle| circle.iter().copied().map(str::to_owned).collect::<BTreeSet<_>>());
    let circles = circles();
    for circle in &circles {
        assert!(known.iter().any(|known| circle.is_subset(known)), "these import each other: {circle:?}");
    }
    for known in &known {
        assert!(
            circles.iter().any(|circle| circle.is_subset(known)),
            "mended, so take it off the list: {known:?}"
        );
    }
}

#[test]
fn this_test_would_find_a_circle_through_a_re_export() {
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
