//! From a draft to a plan: what depends on the runtime, on the fleet's ceilings, or on several fields together.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    errors::{Errors, Path},
    layout,
    read::Draft,
};
use crate::submission::{
    catalogue::{Catalogue, Ceilings, Runtime, StageDefaults},
    collect::Collect,
    content::{Blob, Content},
    limits::{LimitChanges, Limits},
    message::{StageChanges, Test},
    names::RuntimeRef,
    plan::{ArchivePlan, CollectPlan, Plan, PlannedFile, RunPlan, Source, StagePlan},
    units::ByteSize,
};

/// The runtimes that an error lists.
const MOST_LISTED: usize = 10;

/// The plan of `draft`, where nothing is wrong with it; what is goes to `errors`.
pub(super) fn resolve(
    mut draft: Draft,
    catalogue: &Catalogue,
    ceilings: &Ceilings,
    errors: &mut Errors,
) -> Option<Plan> {
    let runtime = draft
        .runtime
        .as_ref()
        .and_then(|reference| find(reference, catalogue, errors));
    layout::name_first(
        &mut draft,
        runtime.map(|runtime| runtime.source_file.as_str()),
    );
    let directories = layout::check(&draft, errors);
    check_blobs(&draft, ceilings, errors);
    check_arguments(&draft, runtime, ceilings, errors);
    let runtime = runtime?;
    let compile_defaults = compile_defaults(&draft, runtime, errors);
    if errors.count() > 0 {
        return None;
    }
    let plan = Builder {
        runtime,
        ceilings,
        entry: entry(&draft, Some(runtime))?,
    }
    .plan(draft, compile_defaults);
    check_space(&plan, directories, errors);
    (errors.count() == 0).then_some(plan)
}

fn find<'a>(
    reference: &RuntimeRef,
    catalogue: &'a Catalogue,
    errors: &mut Errors,
) -> Option<&'a Runtime> {
    let found = catalogue.find(reference);
    if found.is_none() {
        let mut names: Vec<_> = catalogue
            .runtimes
            .iter()
            .map(|runtime| runtime.reference().to_string())
            .collect();
        if names.len() > MOST_LISTED {
            names.truncate(MOST_LISTED);
            names.push("\u{2026}".to_owned());
        }
        let known = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        let message = format!("this fleet has no \"{reference}\", it has {known}");
        errors.add(&Path::Root.field("runtime"), message);
    }
    found
}

/// The file that the runtime's commands name: as it is said, else the first, else what the runtime's are called.
fn entry(draft: &Draft, runtime: Option<&Runtime>) -> Option<String> {
    let first = || match draft.files.first() {
        Some(first) => first.path.clone(),
        None => runtime.map(|runtime| runtime.source_file.clone()),
    };
    draft.entry.clone().or_else(first)
}

/// Holds what is in the object store against the ceilings, as far as the submission says it.
fn check_blobs(draft: &Draft, ceilings: &Ceilings, errors: &mut Errors) {
    let archive = draft.archive.iter().map(|archive| &archive.content);
    let files = draft.files.iter().map(|file| &file.content);
    let tests = draft.tests.iter();
    let tests = tests.flat_map(|test| test.expected.iter().chain([&test.stdin]));
    let contents = archive.chain(files).chain(&draft.stdin).chain(tests);
    let blobs: Vec<&Blob> = contents.filter_map(Content::blob).collect();
    if blobs.len() > ceilings.blobs {
        let (came, most) = (blobs.len(), ceilings.blobs);
        let message = format!("{came} blobs are over this fleet's ceiling of {most}");
        errors.add(&Path::Root, message);
    }
    let mut sizes = BTreeMap::new();
    for blob in blobs {
        let size = blob.size_bytes.0;
        if *sizes.entry(&blob.digest).or_insert(size) != size {
            let message = format!("{} is said to have two sizes", blob.digest);
            errors.add(&Path::Root, message);
        }
    }
    let all = sizes.into_values().fold(0, u64::saturating_add);
    if all > ceilings.blob_total_bytes.0 {
        let (came, most) = (ByteSize(all), ceilings.blob_total_bytes);
        let message =
            format!("all blobs together have {came}, over this fleet's ceiling of {most}");
        errors.add(&Path::Root, message);
    }
}

/// The compile stage's defaults: the runtime's, or those of its run stage where only the submission names a command.
fn compile_defaults<'a>(
    draft: &Draft,
    runtime: &'a Runtime,
    errors: &mut Errors,
) -> Option<&'a StageDefaults> {
    if runtime.compile.is_some() || draft.compile == StageChanges::default() {
        return runtime.compile.as_ref();
    }
    if draft.compile.command.is_none() {
        let name = runtime.reference();
        let message = format!("{name} has no compile stage: give compile.command to add one");
        errors.add(&Path::Root.field("compile"), message);
    }
    Some(&runtime.run)
}

/// The number and the bytes of what a stage is called with: its arguments and its environment.
#[derive(Clone, Copy, Default)]
struct Called {
    arguments: usize,
    bytes: u64,
}

impl Called {
    fn with_arguments(mut self, arguments: &[String]) -> Self {
        self.arguments += arguments.len();
        // As execve counts: each ends with a NUL.
        self.bytes += arguments
            .iter()
            .map(|argument| argument.len() as u64 + 1)
            .sum::<u64>();
        self
    }

    fn with_environment(mut self, env: &BTreeMap<String, String>) -> Self {
        self.bytes += env
            .iter()
            .map(|(name, value)| name.len() as u64 + value.len() as u64 + 2)
            .sum::<u64>();
        self
    }

    /// Notes what is over the ceilings; says whether nothing is.
    fn check(self, ceilings: &Ceilings, path: &Path<'_>, errors: &mut Errors) -> bool {
        let before = errors.count();
        if self.arguments > ceilings.arguments {
            let (came, most) = (self.arguments, ceilings.arguments);
            let message = format!("{came} arguments are over this fleet's ceiling of {most}");
            errors.add(path, message);
        }
        if self.bytes > ceilings.argument_bytes.0 {
            let (came, most) = (self.bytes, ceilings.argument_bytes.0);
            let message = format!(
                "{came} bytes of arguments and environment are over this fleet's ceiling of {most}"
            );
            errors.add(path, message);
        }
        errors.count() == before
    }
}

fn check_arguments(
    draft: &Draft,
    runtime: Option<&Runtime>,
    ceilings: &Ceilings,
    errors: &mut Errors,
) {
    let root = Path::Root;
    let entry = entry(draft, runtime).unwrap_or_default();
    let called = |changes: &StageChanges, defaults: Option<&StageDefaults>| {
        let command = command(changes, defaults, &entry);
        Called::default()
            .with_arguments(&command)
            .with_arguments(&changes.args)
            .with_environment(&environment(runtime, changes))
    };
    let compile = runtime.and_then(|runtime| runtime.compile.as_ref());
    called(&draft.compile, compile).check(ceilings, &root.field("compile"), errors);
    let run = called(&draft.run, runtime.map(|runtime| &runtime.run));
    if run.check(ceilings, &root.field("run"), errors) {
        let tests = root.field("tests");
        for (index, test) in draft.tests.iter().enumerate() {
            run.with_arguments(&test.args).check(
                ceilings,
                &tests.item(index).field("args"),
                errors,
            );
        }
    }
}

/// The command of a stage: the submission's as it is, or the runtime's with the entry in its place.
fn command(changes: &StageChanges, defaults: Option<&StageDefaults>, entry: &str) -> Vec<String> {
    match (&changes.command, defaults) {
        (Some(command), _) => command.clone(),
        (None, Some(defaults)) => defaults
            .command
            .iter()
            .map(|argument| argument.replace("{entry}", entry))
            .collect(),
        (None, None) => Vec::new(),
    }
}

/// The environment of a stage: the runtime's, the submission's over it, and `HOME`.
fn environment(runtime: Option<&Runtime>, changes: &StageChanges) -> BTreeMap<String, String> {
    let mut env = runtime
        .map(|runtime| runtime.env.clone())
        .unwrap_or_default();
    env.extend(changes.env.clone());
    env.insert("HOME".to_owned(), envicutor_protocol::WORK_DIR.to_owned());
    env
}

fn check_space(plan: &Plan, directories: u64, errors: &mut Errors) {
    let files = Path::Root.field("files");
    let sizes = plan.files.iter().map(|file| file.data.size_bytes().0);
    let bytes = sizes.fold(0, u64::saturating_add);
    if bytes > plan.disk_bytes().0 {
        let message = format!(
            "all files together have {bytes} bytes, more than disk_bytes of {}",
            plan.disk_bytes().0
        );
        errors.add(&files, message);
    }
    let inodes = plan.files.len() as u64 + directories;
    if inodes > plan.inodes() {
        let message = format!(
            "{inodes} files and directories are more than inodes of {}",
            plan.inodes()
        );
        errors.add(&files, message);
    }
}

/// Builds the plan of a draft without errors.
struct Builder<'a> {
    runtime: &'a Runtime,
    ceilings: &'a Ceilings,
    entry: String,
}

impl Builder<'_> {
    fn plan(&self, draft: Draft, compile: Option<&StageDefaults>) -> Plan {
        let compile = compile.map(|defaults| self.stage(defaults, &draft.compile));
        let base = self.stage(&self.runtime.run, &draft.run);
        let runs = if draft.tests.is_empty() {
            vec![RunPlan {
                name: None,
                stage: StagePlan {
                    stdin: draft.stdin.map(source).unwrap_or_default(),
                    ..base
                },
                expected: None,
            }]
        } else {
            let tests = draft.tests.into_iter();
            tests.map(|test| self.run(&base, test)).collect()
        };
        Plan {
            runtime: (self.runtime.name.clone(), self.runtime.version.clone()),
            archive: draft.archive.map(|archive| ArchivePlan {
                format: archive.format,
                source: source(archive.content),
                strip_components: archive.strip_components,
            }),
            files: draft
                .files
                .into_iter()
                .map(|file| PlannedFile {
                    path: file.path.unwrap_or_default(),
                    executable: file.executable,
                    data: source(file.content),
                })
                .collect(),
            compile,
            runs,
            collect: draft.collect.map(|collect| self.collect(collect)),
            cache: !draft.no_cache,
            compare: draft.compare,
            stop_on_failure: draft.stop_on_failure,
            total_time_us: draft
                .total_time_us
                .unwrap_or(self.ceilings.default_total_time_us),
            expires_at: draft.expires_at,
            events: draft.events,
            labels: draft.labels,
        }
    }

    fn stage(&self, defaults: &StageDefaults, changes: &StageChanges) -> StagePlan {
        let mut argv = command(changes, Some(defaults), &self.entry);
        argv.extend(changes.args.iter().cloned());
        StagePlan {
            argv,
            env: Arc::new(environment(Some(self.runtime), changes)),
            limits: self.limits(&defaults.limits, &changes.limits),
            stdin: Source::default(),
            template: defaults.template && changes.command.is_none(),
        }
    }

    fn run(&self, base: &StagePlan, test: Test) -> RunPlan {
        let argv = base.argv.iter().cloned().chain(test.args).collect();
        RunPlan {
            name: test.name,
            stage: StagePlan {
                argv,
                env: Arc::clone(&base.env),
                limits: self.limits(&base.limits, &test.limits),
                stdin: source(test.stdin),
                template: base.template,
            },
            expected: test.expected.map(source),
        }
    }

    fn collect(&self, collect: Collect) -> CollectPlan {
        let most = self.ceilings;
        CollectPlan {
            patterns: collect.paths,
            max_files: collect.max_files.unwrap_or(most.collect_files),
            max_bytes: collect.max_bytes.unwrap_or(most.collect_bytes),
        }
    }

    /// `defaults` with `changes`. A runtime's default over the fleet's ceiling is the operator's doing and gives way to
    /// the ceiling; a submission's own value over it was an error before.
    fn limits(&self, defaults: &Limits, changes: &LimitChanges) -> Limits {
        let most = &self.ceilings.limits;
        let limits = defaults.changed(changes);
        Limits {
            cpu_time_us: limits.cpu_time_us.min(most.cpu_time_us),
            extra_time_us: limits.extra_time_us.min(most.extra_time_us),
            wall_time_us: limits.wall_time_us.min(most.wall_time_us),
            memory_bytes: limits.memory_bytes.min(most.memory_bytes),
            stack_bytes: limits.stack_bytes.min(most.stack_bytes),
            processes: limits.processes.min(most.processes),
            open_files: limits.open_files.min(most.open_files),
            file_size_bytes: limits.file_size_bytes.min(most.file_size_bytes),
            disk_bytes: limits.disk_bytes.min(most.disk_bytes),
            inodes: limits.inodes.min(most.inodes),
            output_bytes: limits.output_bytes.min(most.output_bytes),
        }
    }
}

/// Where a content's bytes are. No body holds the name of a file of the publisher's machine.
fn source(content: Content) -> Source {
    match content {
        Content::Inline(data) => Source::Inline(data),
        Content::Blob(blob) => Source::Blob(blob),
        Content::Local(_) => Source::default(),
    }
}
