//! Languages whose runtimes ask much of the kernel (threads of their own making, event loops, compilers that start many
//! processes) run under both walls: node, Java and Go, from Debian's packages, each with threads and standard input.

#[path = "../fleet/mod.rs"]
mod fleet;

use fleet::Fleet;
use serde_json::{Value, json};

const NODE: &str = r#"
const { Worker, isMainThread, parentPort } = require("worker_threads");
const fs = require("fs");
if (isMainThread) {
    const line = fs.readFileSync(0, "utf8").trim();
    const workers = [1, 2, 3].map(() => new Promise((done) => new Worker(__filename).on("message", done)));
    Promise.all(workers).then((each) => {
        fs.promises.writeFile("/tmp/file", "x").then(() => console.log(line, each.reduce((a, b) => a + b)));
    });
} else {
    parentPort.postMessage(14);
}
"#;

const JAVA: &str = r#"
import java.util.Scanner;
import java.util.concurrent.*;
public class Main {
    public static void main(String[] args) throws Exception {
        String line = new Scanner(System.in).nextLine();
        ExecutorService pool = Executors.newFixedThreadPool(3);
        int sum = 0;
        for (Future<Integer> each : pool.invokeAll(java.util.Collections.nCopies(3, (Callable<Integer>) () -> 14))) sum += each.get();
        pool.shutdown();
        System.out.println(line + " " + sum);
    }
}
"#;

const GO: &str = r#"
package main
import ("bufio"; "fmt"; "os"; "runtime")
func main() {
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	each := make(chan int)
	for i := 0; i < 3; i++ {
		go func() { runtime.LockOSThread(); each <- 14 }()
	}
	fmt.Println(line[:len(line)-1], <-each + <-each + <-each)
}
"#;

fn submission(runtime: &str, source: &str) -> Value {
    json!({"runtime": runtime, "files": [{"text": source}], "run": {"stdin": "hello\n"}})
}

async fn languages_run(isolation: &str) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/languages");
    let environment = [
        ("ENVICUTOR__CONTAINER__ISOLATION", isolation),
        ("ENVICUTOR__RUNTIMES__DIR", directory),
    ];
    let fleet = Fleet::start_with(&environment).await;
    let submissions = vec![
        submission("node", NODE),
        submission("java", JAVA),
        submission("go", GO),
    ];
    for result in fleet.run_all(submissions).await {
        assert_eq!(result["verdict"], "ok", "{result:#}");
        assert_eq!(result["isolation"], isolation, "{result:#}");
        assert_eq!(
            result["runs"][0]["stdout"]["text"], "hello 42\n",
            "{result:#}"
        );
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_java_and_go_run_in_a_sandbox() {
    languages_run("sandbox").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_java_and_go_run_in_a_container() {
    languages_run("container").await;
}
