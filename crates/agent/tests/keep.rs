//! What a stage finds of the ones before it: what was kept, and nothing else.

mod harness;

use envicutor_protocol::{Command, File, Report};
use harness::{Worker, assert_ok, shell, stage};

/// Prints all that there is of a tree in `.`: kind, mode, size, time of modification, name, target and a sum of the contents.
const INVENTORY: &str = r#"
    sub show {
        my ($name) = @_;
        my @s = lstat $name or die; my $kind = -l _ ? 'l' : -d _ ? 'd' : -f _ ? 'f' : 'x';
        my $size = $kind eq 'd' ? 0 : $s[7];
        printf "%s %o %d %d %s", $kind, $s[2] & 07777, $size, $s[9], unpack 'H*', $name;
        print ' -> ', readlink $name if $kind eq 'l';
        if ($kind eq 'f' && $size < 1e6 && open my $f, '<', $name) { local $/; print ' = ', unpack '%32N*', <$f> . '000' }
        print "\n";
        if ($kind eq 'd' && opendir my $d, $name) { show("$name/$_") for sort grep { !/^\.\.?$/ } readdir $d }
    }
    show('.');
"#;

/// A tree with something of everything that is kept.
const BUILD: &str = r#"
    umask 0;
    mkdir 'dir', 0755; mkdir 'dir/sub'; chmod 02751, 'dir/sub'; mkdir 'sticky'; chmod 01777, 'sticky'; mkdir 'empty', 0700;
    sub put { my ($name, $mode, $data) = @_; open my $f, '>', $name or die "$name: $!"; print $f $data; close $f; chmod $mode, $name }
    put('main', 0755, "\x7fELF" x 1000); put('dir/data', 0644, 'abc'); put('dir/sub/deep', 0600, '');
    put("new\nline", 0644, 'n'); put("\xff\xfe", 0644, 'u'); put('-rf *', 0644, 's'); put('setuid', 06755, 's');
    put('closed', 0, 'closed'); put('large', 0644, join '', map { pack 'N', $_ } 1..100_000);
    open my $f, '>', 'sparse'; truncate $f, 1 << 40; seek $f, 1 << 39, 0; print $f 'middle'; close $f;
    symlink '/etc/passwd', 'passwd'; symlink 'dir/data', 'link'; symlink "nowhere\n\xff", 'dangling';
    utime 1, 1_000_000_000, 'main', 'dir/data'; utime 1, 1_000_000_001, 'sticky', 'dir';
    mkdir 'locked', 0755; put('locked/in', 0444, 'in'); chmod 0, 'locked';
"#;

/// What a hostile first run leaves.
const WRECK: &str = r#"
    use Socket;
    sub put { my ($name, $data) = @_; open my $f, '>', $name or die "$name: $!"; print $f $data }
    chmod 0755, 'locked'; unlink 'locked/in'; mkdir 'locked/new'; chmod 0, 'locked/new';
    put('main', 'overwritten'); unlink 'dir/data'; symlink '/etc/passwd', 'dir/data';
    rename 'dir/sub', 'moved'; chmod 0, 'moved'; unlink 'link'; link 'large', 'link'; put('large', 'l');
    unlink 'setuid'; symlink '/etc', 'setuid'; unlink 'passwd'; put('passwd', 'root');
    system 'mkfifo', 'fifo', 'sticky/fifo';
    for ('socket', 'empty/socket') { socket my $s, PF_UNIX, SOCK_STREAM, 0; bind $s, sockaddr_un($_) or die $! }
    put("a\n\xff$_", $_) for 1..300;
    mkdir "many$_" and put("many$_/file", 1) and chmod 0, "many$_" for 1..300;
    open my $f, '>', 'hole'; truncate $f, 1 << 40; close $f; truncate 'sparse', 5;
    for my $top ('.', '/tmp', '/dev/shm') {
        chdir $top; mkdir 'deep'; chdir 'deep' or die;
        for (1..3000) { mkdir 'd' x 200; chdir 'd' x 200 or die $! }
        put('bottom', 1); chdir '/'; chdir $ENV{HOME};
    }
    for my $top ('/tmp', '/dev/shm') {
        put("$top/.hidden", 1); mkdir "$top/closed"; put("$top/closed/file", 1); chmod 0, "$top/closed";
        symlink '/etc/passwd', "$top/link"; system 'mkfifo', "$top/fifo"; mkdir "$top/sticky"; chmod 01777, "$top/sticky";
    }
    utime 1, 1, '.'; chmod 0, '.';
"#;

fn perl(program: &str, worker: &Worker) -> envicutor_protocol::Stage {
    let mut order = stage(&["perl", "-e", program]);
    let home = worker.work_dir.to_string_lossy().into_owned();
    order.env.push(("HOME".into(), home));
    order.limits.file_size_bytes = 1 << 41;
    order
}

#[track_caller]
fn run(worker: &mut Worker, program: &str) -> String {
    let order = perl(program, worker);
    let outcome = worker.run(order);
    assert_ok(&outcome);
    assert!(outcome.stderr.is_empty(), "{outcome:?}");
    outcome.text()
}

#[track_caller]
fn assert_same(before: &str, after: &str) {
    let missing = before.lines().filter(|it| !after.contains(it));
    let new = after.lines().filter(|it| !before.contains(it));
    let (missing, new): (Vec<_>, Vec<_>) = (missing.collect(), new.collect());
    assert!(
        before == after,
        "missing: {missing:#.200?}, new: {new:#.200?}"
    );
}

#[test]
fn every_run_after_keep_finds_what_was_kept_whatever_the_one_before_did() {
    let mut worker = Worker::open();
    run(&mut worker, BUILD);
    worker.keep().expect("there is room");
    let first = run(&mut worker, INVENTORY);
    for part in [
        "d 2751 ",
        "d 1777 ",
        "f 6755 ",
        "d 0 ",
        "f 666 1099511627776 ",
        "-> /etc",
    ] {
        assert!(first.contains(part), "{part} is not in {first}");
    }
    for _ in 0..2 {
        run(&mut worker, WRECK);
        let next = run(&mut worker, INVENTORY);
        assert_same(&first, &next);
    }
    let program = "open my $f, '<', 'sparse'; seek $f, 1 << 39, 0; read $f, my $x, 10; print $x, (stat $f)[7] == 1 << 40, \
                   (stat _)[12] < 100; chmod 0755, 'locked' or die; open $f, '<', 'locked/in'; print <$f>";
    assert_eq!(
        run(&mut worker, program),
        "middle\0\0\0\0".to_owned() + "11in"
    );
}

#[test]
fn the_scratch_directories_are_empty_for_every_stage() {
    let mut worker = Worker::open();
    let list = "ls -A /tmp /dev/shm | grep -v '^$'; true";
    for _ in 0..2 {
        let outcome = worker.run(shell(list));
        assert_eq!(outcome.text(), "/dev/shm:\n/tmp:\n");
        run(
            &mut worker,
            "for my $top ('/tmp', '/dev/shm') { mkdir \"$top/a\"; open my $f, '>', \"$top/a/b\"; chmod 0, \"$top/a\" }",
        );
    }
}

#[test]
fn what_is_not_the_stages_stays_in_the_scratch_directories() {
    if harness::made_in_docker() {
        return; // Nobody else can write there.
    }
    let mut worker = Worker::open();
    assert_ok(&worker.run(shell("true")));
    let children = format!("/proc/{0}/task/{0}/children", worker.agent.id());
    let agent = std::fs::read_to_string(children).expect("unshare has a child");
    let foreign = format!("/proc/{}/root/tmp/foreign", agent.trim());
    std::fs::create_dir(&foreign).expect("makes a directory");
    std::fs::write(format!("{foreign}/file"), "root's").expect("writes");
    assert_ok(&worker.run(shell("echo > /tmp/own")));
    assert_eq!(
        worker.run(shell("ls /tmp; ls /tmp/foreign")).text(),
        "foreign\nfile\n"
    );
}

#[test]
fn system_v_shared_memory_queues_and_semaphores_are_gone() {
    let mut worker = Worker::open();
    let count = "cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem | wc -l";
    let make = "shmget(7, 1 << 20, 01600) // die $!; shmget(8, 4096, 01000) // die $!; msgget(7, 01600) // die $!; \
                semget(7, 3, 01600) // die $!; my $id = shmget(9, 4096, 01600); print 1";
    for _ in 0..2 {
        assert_eq!(worker.run(shell(count)).text(), "3\n");
        assert_eq!(run(&mut worker, make), "1");
    }
}

#[test]
fn without_keep_the_work_directory_stays_as_it_is() {
    let mut worker = Worker::open();
    worker.file("source", b"s", false);
    assert_ok(&worker.run(shell("cp source built; chmod 0500 .")));
    assert_ok(&worker.run(shell("cat built; chmod 0700 . && rm source && echo > more")));
    assert_eq!(worker.run(shell("ls")).text(), "built\nmore\n");
}

#[test]
fn files_alone_can_be_kept_and_kept_anew() {
    let mut worker = Worker::open();
    worker.file("a/source", b"s", false);
    worker.keep().expect("there is room");
    assert_eq!(
        worker.run(shell("echo x > a/new; cat a/source")).text(),
        "s"
    );
    assert_eq!(
        worker.run(shell("ls a; rm -r a; echo > b")).text(),
        "source\n"
    );
    worker.keep().expect("there is room");
    assert_eq!(worker.run(shell("ls; rm b")).text(), "b\n");
    assert_eq!(worker.run(shell("ls")).text(), "b\n");
}

#[test]
fn all_runs_find_the_same_even_where_something_cannot_be_kept() {
    let mut worker = Worker::open();
    assert_ok(&worker.run(shell("mkfifo fifo; echo 1 > a; ln a b")));
    worker.keep().expect("there is room");
    for _ in 0..2 {
        let outcome = worker.run(shell("ls; cat b; echo 2 > a; cat b"));
        assert_eq!(outcome.text(), "a\nb\n1\n1\n");
    }
}

#[test]
fn a_file_that_is_written_through_a_mapping_is_laid_out_anew() {
    let mut worker = Worker::open();
    worker.file("data", &[b'a'; 5000], false);
    worker.keep().expect("there is room");
    let program = "import mmap, os\nf = os.open('data', os.O_RDWR)\nm = mmap.mmap(f, 5000)\nprint(m[:2], m[4998:])\n\
                   m[:2] = b'xx'\nm[4998:] = b'xx'\n";
    for _ in 0..2 {
        let outcome = worker.run(stage(&["python3", "-c", program]));
        assert_ok(&outcome);
        assert_eq!(outcome.text(), "b'aa' b'aa'\n");
    }
}

#[test]
fn the_work_directory_itself_carries_nothing_over() {
    let mut worker = Worker::open();
    worker.keep().expect("there is room");
    let program = "import os\nprint(os.listxattr('.'), oct(os.stat('.').st_mode), os.stat('.').st_atime > 1e9)\n\
                   try: os.setxattr('.', 'user.note', b'1')\nexcept OSError as e: print(e)\n\
                   os.utime('.', (1, 1))\nos.chmod('.', 0o777)\n";
    for _ in 0..2 {
        let outcome = worker.run(stage(&["python3", "-c", program]));
        assert_ok(&outcome);
        assert!(
            outcome.text().starts_with("[] 0o40700 True\n"),
            "{outcome:?}"
        );
    }
}

#[test]
fn what_does_not_fit_is_not_kept() {
    let mut worker = Worker::open();
    // Each link becomes a file of its own: together they are larger than the file system.
    let script =
        "head -c 10000000 /dev/zero | tr '\\0' x > a; for i in $(seq 20); do ln a $i; done";
    assert_ok(&worker.run(shell(script)));
    assert_eq!(worker.keep(), None);
    assert_eq!(worker.run(shell("ls | wc -l")).text(), "21\n");
}

#[test]
fn a_work_directory_for_which_there_is_no_memory_is_not_kept() {
    let Some(mut worker) = Worker::open_in_cgroup(48 << 20, 33) else {
        return;
    };
    let mut order = shell("head -c 30000000 /dev/urandom > a");
    order.limits.file_size_bytes = 1 << 30;
    assert_ok(&worker.run(order));
    assert_eq!(worker.keep(), None);
}

#[test]
fn keep_out_of_order_is_the_agents_end() {
    let mut worker = Worker::start(harness::Cgroups::None);
    worker.send(&Command::Keep);
    let (step, error) = worker.expect_failure();
    assert!(step == "obey" && error.contains("keep"), "{error}");

    let mut worker = Worker::open();
    worker.send(&Command::Stage(Box::new(shell("sleep 5"))));
    assert_eq!(worker.receive(), Some(Report::Started));
    worker.send(&Command::Keep);
    let (step, error) = worker.expect_failure();
    assert!(step == "obey" && error.contains("keep"), "{error}");

    let mut worker = Worker::open();
    worker.keep().expect("there is room");
    worker.send(&Command::File(File {
        path: "late".into(),
        executable: false,
        append: false,
        data: vec![1],
    }));
    let (step, error) = worker.expect_failure();
    assert!(step == "obey" && error.contains("file"), "{error}");
}
