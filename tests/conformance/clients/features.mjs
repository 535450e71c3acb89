// What the Node scripts have in common: asked by JSON, they answer by JSON, as features.py has it.

// Print, for each of those asked (argv), what each feature gave or the error it ended in. `begin` is told what to ask.
export async function answer(features, begin) {
  const reported = {};
  for (const [who, given] of Object.entries(JSON.parse(process.argv[2]))) {
    begin(given);
    reported[who] = {};
    for (const [name, feature] of Object.entries(features)) {
      try {
        reported[who][name] = await feature();
      } catch (error) {
        reported[who][name] = { failed: String(error.stack ?? error) };
      }
    }
  }
  console.log(JSON.stringify(reported));
}
