//! Templates: a program that begins from one is what a cold start gives, whatever it looks at and however it ends; and what
//! changes the start itself gets no template.

mod fleet;

use std::time::Duration;

use fleet::Fleet;
use serde_json::{Value, json};

/// One slot, so that every submission meets the same agent.
async fn start(templates: bool) -> Fleet {
    let env = [
        ("ENVICUTOR__CONTAINER__ISOLATION", "sandbox"),
        ("ENVICUTOR__CONTAINER__POOL_SIZE", "1"),
        (
            "ENVICUTOR__CONTAINER__TEMPLATES",
            if templates { "true" } else { "false" },
        ),
    ];
    Fleet::start_sized(1, &env).await
}

/// So many seconds, or more on a slow machine, in microseconds.
fn slow(seconds: u64) -> u64 {
    let time = fleet::slowly(Duration::from_secs(seconds));
    time.as_micros().try_into().expect("it fits")
}

/// A program with what the tests run all of them with: limits of which each program meets one alone, so an endless recursion
/// that of the stack.
fn python(source: &str) -> Value {
    json!({
        "runtime": "python",
        "files": [{"text": source}],
        "run": {
            "stdin": "hello\nworld\n",
            "limits": {
                "cpu_time_us": slow(1), "wall_time_us": slow(3), "memory_bytes": 64 << 20, "processes": 12,
                "output_bytes": 20_000, "file_size_bytes": 1 << 20, "stack_bytes": 16 << 20
            },
        },
    })
}

/// The same program, by a command that is the submission's own: no template is taken of it.
fn cold(mut submission: Value) -> Value {
    submission["run"]["command"] = json!(["/usr/bin/python3", "main.py"]);
    submission
}

async fn run(fleet: &Fleet, submission: Value) -> Value {
    fleet.run_all(vec![submission]).await.remove(0)
}

/// Runs an ordinary program until it begins from a template.
async fn warm_up(fleet: &Fleet) {
    fleet::eventually(
        "a program begins from a template",
        Duration::from_mins(1),
        async || run(fleet, python("pass")).await["start"] == "warm",
    )
    .await;
}

/// What must be the same of two results.
fn seen(result: &Value) -> Value {
    let run = &result["runs"][0];
    let fields = [
        "verdict",
        "exit_code",
        "signal",
        "limits_hit",
        "stdout",
        "stderr",
    ];
    fields
        .iter()
        .map(|field| ((*field).to_owned(), run[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Programs that say all that a program can find out about its start.
const LOOKS: [&str; 6] = [
    "import sys, os\nprint(sys.argv, sys.path, sys.flags, __name__, __file__, sorted(globals()), sorted(sys.modules), \
     sys.executable, sys.orig_argv, sys.stdin, sys.stdout, sys.stderr, list(sys.path_importer_cache), dict(os.environ))",
    "import os, signal\nprint(os.getcwd(), os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0), os.getuid(), os.umask(0), \
     os.nice(0), [signal.getsignal(i) if not callable(signal.getsignal(i)) else 1 for i in range(1, 65)], \
     signal.pthread_sigmask(0, []))",
    "import resource\nprint([resource.getrlimit(i) for i in range(16)])",
    "for name in ('cmdline', 'environ', 'comm', 'limits', 'oom_score_adj', 'cgroup'):\n  \
     print(name, open('/proc/self/' + name, 'rb').read())",
    "import re\nprint([line for line in open('/proc/self/status') if \
     re.match('Name|Umask|Tgid|NS|Pid|PPid|Tracer|Uid|Gid|Groups|Threads|Sig|Shd|Cap|NoNew|Seccomp|CoreDump', line)])",
    "import os, stat\nprint(sorted(os.listdir('/proc/self/fd')), os.listdir('/work'), os.listdir('/tmp'), os.listdir('/'), \
     [(stat.S_IFMT(os.fstat(i).st_mode), os.fstat(i).st_uid) for i in range(3)])",
];

/// Programs that end in every way, and use what an interpreter has.
const ENDS: [&str; 30] = [
    "",
    "def f(): 1 / 0\nf()",
    "x = = 1",
    "import sys; sys.exit(3)",
    "raise SystemExit('bye')",
    "import atexit\natexit.register(print, 'end')\nclass A:\n  def __del__(self): print('del')\na = [A()]\na.append(a)",
    "import os; os.kill(os.getpid(), 15)",
    "import ctypes; ctypes.string_at(0)",
    "import os; os.abort()",
    "import os\nos.kill(os.getpid(), 2)\nwhile True: pass",
    "print('no end of line', end='')",
    "import os\nprint('lost', end='')\nos._exit(0)",
    "import sys\nprint(repr(sys.stdin.read()))\nsys.stderr.write('x\\n')",
    "print('äöü€', ascii(input()))",
    "import os\nos.close(1)\nprint('x')",
    "print(open('/dev/stdin').read())\nopen('/dev/stdout', 'w').write('hey\\n')",
    "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(input())'], input='x', text=True, capture_output=True))",
    "import threading\nt = [threading.Thread(target=print, args=(i,)) for i in range(4)]\n[x.start() or x.join() for x in t]\n\
     print(threading.get_native_id())",
    "import multiprocessing as m\ndef f(x): return x * x\nif __name__ == '__main__':\n  with m.Pool(2) as p: print(p.map(f, range(5)))",
    "import os\nif os.fork() == 0: os._exit(4)\nprint(os.wait())",
    "import os; os.execv('/usr/bin/python3', ['python3', '-c', 'import sys; print(sys.argv)'])",
    "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000))",
    "import sys\nsys.setrecursionlimit(10 ** 6)\nclass A:\n  def __repr__(self): return repr([self])\nrepr(A())",
    "x = [bytearray(1 << 20) for i in range(30)]\nfor b in x: b[::4096] = b'x' * 256\ndel x\nprint(len([str(i) for i in range(50000)]))",
    "import json, hashlib, datetime, typing, dataclasses\nprint(json.dumps({'a': 1}), hashlib.sha256(b'').hexdigest())",
    "import signal, time\nsignal.signal(14, lambda *a: print('alarm'))\nsignal.setitimer(0, 0.05)\ntime.sleep(0.2)\nprint('ok')",
    "import warnings\nwarnings.warn('x')",
    "open('big', 'wb').write(b'x' * (2 << 20))",
    "print('\\ufeff')",
    "import os\nprint(os.kill(1, 9))\ntry: open('/proc/1/mem')\nexcept OSError as e: print(e)",
];

/// Programs that a limit ends.
const LIMITS: [&str; 5] = [
    "while True: pass",
    "import time; time.sleep(60)",
    "x = []\nwhile True: x.append(bytearray(b'x' * 1000000))",
    "x = b'x' * (1 << 30)",
    "import os, time\nfor i in range(100):\n  if os.fork() == 0:\n    time.sleep(2)\n    os._exit(0)",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_program_from_a_template_is_what_a_cold_start_gives() {
    let fleet = start(true).await;
    warm_up(&fleet).await;
    let mut wrong = Vec::new();
    for source in LOOKS.iter().chain(&ENDS).chain(&LIMITS) {
        let results = vec![cold(python(source)), python(source)];
        let results = fleet.run_all(results).await;
        let starts = (&results[0]["start"], &results[1]["start"]);
        if starts != (&json!("pooled"), &json!("warm")) {
            wrong.push(format!("{source}\nbegan as {starts:?}"));
        }
        let (expected, found) = (seen(&results[0]), seen(&results[1]));
        if expected != found {
            wrong.push(format!("{source}\ncold {expected:#}\nwarm {found:#}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_the_start_gets_no_template() {
    let fleet = start(true).await;
    warm_up(&fleet).await;
    let with = |field: &str, value: Value| {
        let mut submission = python("import os\nprint(os.environ.get('A'))");
        submission["run"][field] = value;
        submission
    };
    let site = "import sys; sys.stdout.write('from the directory\\n')";
    let mut own_site = python("pass");
    own_site["files"] = json!([
        {"text": "pass"}, {"path": ".local/lib/python3.11/site-packages/own.pth", "text": site},
    ]);
    let mut other_entry = python("print(__file__)");
    other_entry["files"][0]["path"] = json!("other.py");
    for (submission, output) in [
        (with("env", json!({"A": "b"})), "b\n"),
        (with("args", json!(["-v"])), "None\n"),
        (with("limits", json!({"stack_bytes": 1 << 20})), "None\n"),
        (own_site, "from the directory\n"),
        (other_entry, "/work/other.py\n"),
    ] {
        let result = run(&fleet, submission.clone()).await;
        assert_eq!(result["start"], "pooled", "{submission:#}");
        assert_eq!(result["runs"][0]["stdout"]["text"], output, "{result:#}");
    }
    assert_eq!(run(&fleet, python("pass")).await["start"], "warm");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_templates_no_program_begins_from_one() {
    let fleet = start(false).await;
    for _ in 0..6 {
        let start = &run(&fleet, python("pass")).await["start"];
        assert!(*start == "pooled" || *start == "cold", "{start}");
    }
    fleet.stop().await;
}

/// What a program from a template tries on what it came from: everything that there is of the agent, and the next program.
const ATTACKS: [&str; 4] = [
    // Nothing of the agent is in its memory, but one page of instructions, a copy of its own.
    "import ctypes\n\
     libc = ctypes.CDLL(None)\n\
     areas = [line.split() for line in open('/proc/self/maps')]\n\
     odd = [a for a in areas if len(a) > 5 and not a[5].startswith(('/usr/', '['))]\n\
     code = [a for a in areas if a[0].startswith('1000')]\n\
     print(odd, len(code), [a[1] for a in code], libc.mprotect(ctypes.c_void_p(0x100000000000), 4096, 3))\n\
     if code: ctypes.memset(0x100000000000, 0xcc, 4096)",
    // Files of the runtime that are mapped cannot be changed through any of its ways.
    "import mmap, os\n\
     for path in ('/usr/bin/python3.11', '/proc/self/exe', '/proc/self/map_files'):\n  \
       try: print(os.open(path, os.O_RDWR))\n  \
       except OSError as error: print('refused', error.errno != 0)",
    // Memory and processes up to the limits.
    "import os, time\nx = bytearray(b'x' * (30 << 20))\nfor i in range(30):\n  \
       try:\n    if os.fork() == 0: time.sleep(1); os._exit(0)\n  except OSError: break\nprint('full')",
    // What it changes in the interpreter is its own.
    "import sys, builtins, ctypes\nbuiltins.print = None\nsys.modules.clear()\nctypes.memset(id(True), 0, 16)",
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_program_does_reaches_the_next_one_of_its_template() {
    let fleet = start(true).await;
    warm_up(&fleet).await;
    let clean = python(
        "import os\nprint(True, input(), os.listdir('/work'), sorted(os.listdir('/proc/self/fd')))",
    );
    let expected = seen(&run(&fleet, clean.clone()).await);
    assert_eq!(
        expected["stdout"]["text"],
        "True hello ['main.py'] ['0', '1', '2', '3']\n"
    );
    for attack in ATTACKS {
        let results = fleet.run_all(vec![python(attack), clean.clone()]).await;
        assert_eq!(results[0]["start"], "warm", "{attack}: {:#}", results[0]);
        assert_eq!(results[1]["start"], "warm", "{attack}: {:#}", results[1]);
        assert_eq!(
            seen(&results[1]),
            expected,
            "after {attack}: {:#}",
            results[0]
        );
        let output = results[0]["runs"][0]["stdout"]["text"]
            .as_str()
            .unwrap_or_default();
        println!("{attack}\n-> {output} {}", seen(&results[0]));
        assert!(!output.contains("agent"), "{output}");
    }
    fleet.stop().await;
}
